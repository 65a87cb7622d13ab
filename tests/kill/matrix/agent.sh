# Every agent of the kill matrix. Its queue's name says what it does. It tells what it sees of the world at its first instruction
# and when it ends, in lines that O_APPEND keeps apart.
B='@BASE@' ROOT='@ROOT@' PORT='@PORT@' Q=$1 T=$2
NAME=${T:+task_$T} NAME=${NAME:-inbound}
trap '' PIPE
note() { echo "$*" >>"$ROOT/stamps/$NAME"; }
trap 'note end $$' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
note start $$ "$CALYPSO_RUN"

# Another agent of this task that lives? Both have said `start` before either reads, so at least one sees the other.
declare -A open=()
while read -r what pid _; do
    case $what in
        start) open[$pid]=1 ;;
        end) unset "open[$pid]" ;;
        complete) note AGAIN $$ ;;
    esac
done <"$ROOT/stamps/$NAME"
unset "open[$$]"
for pid in "${!open[@]}"; do
    words=() state=
    { mapfile -d '' -t words <"/proc/$pid/cmdline"; read -r _ _ state _ <"/proc/$pid/stat"; } 2>/dev/null
    if [[ ${words[1]-} == "$B/agent.sh" && ${words[2]-} == "$Q" && ${words[3]-} == "$T" && $state != Z ]]; then
        note DOUBLE $$ $pid
    fi
done

# Its pid file and its record are there before its first instruction.
content() { local text=; { IFS= read -r -d '' text <"$1"; } 2>/dev/null; printf -v "$2" %s "$text"; }
content "$B/running_tasks/$NAME.pid" pid
[[ ${pid%$'\n'} == $$ ]] || note NOPID $$ "$pid"
record=
for dir in "$B/.calypso/runs/$NAME"/*/; do
    content "$dir/spec.json" spec
    [[ $spec == *"$CALYPSO_RUN"* ]] && record=$dir
done
[[ $record ]] || note NORECORD $$
live=${record%/} live=$NAME-${live##*/}
[[ -e $B/.calypso/live/$live ]] || note UNTRACKED $$ "$live"
content "$record/state.json" state
[[ $state == *'"is": "running"'* ]] || note NOTRUNNING $$ "${state//[[:space:]]/}"

# One call of tinytask, until it answers.
call() {
    local body='{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"'$1'","arguments":'$2'}}' answer try
    for try in {1..400}; do
        if { exec 3<>"/dev/tcp/127.0.0.1/$PORT"; } 2>/dev/null; then
            printf 'POST /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: application/json, text/event-stream\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s' \
                "${#body}" "$body" >&3 2>/dev/null
            answer=
            IFS= read -r -d '' -t 5 answer <&3
            exec 3>&-
            [[ $answer == *'"result"'* && $answer != *'"isError":true'* ]] && return
        fi
        sleep 0.05
    done
    note UNANSWERED $$ "$1"
    exit 7
}
claim() { call update_task '{"id":'"$1"',"status":"working"}'; }
finish() { call update_task '{"id":'"$1"',"status":"complete"}'; echo complete >>"$ROOT/stamps/task_$1"; }
# True the first time this task's agent comes here.
first() { mkdir "$ROOT/acts/$NAME-$1" 2>/dev/null; }

case $Q in
    plain) claim "$T"; finish "$T" ;;
    leave) claim "$T"; first left && exit 1; finish "$T" ;;
    brood) claim "$T"; sleep 600 & (sleep 600 &) ; finish "$T" ;;
    steal) claim "$T"; [[ -d $B/workqueue/task_$((T + 1)) ]] && first stole && { claim $((T + 1)); finish $((T + 1)); }; finish "$T" ;;
    linger) claim "$T"; while [[ ! -e $ROOT/gates/$NAME ]]; do sleep 0.02; done; finish "$T" ;;
    dispatcher)
        for file in "$B"/inbound/*; do [[ -e $file ]] && mv "$file" "$ROOT/taken/"; done
        ;;
esac
