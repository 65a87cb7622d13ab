# A stranger that has nothing to do with any run, but looks like one: it works in the base path and carries a token of its own.
# It tells of every signal it gets.
for signal in {1..64}; do
    case $signal in 9 | 17 | 19 | 32 | 33) ;; *) trap "echo signal $signal >>'$1'" "$signal" 2>/dev/null ;; esac
done
echo ready >>"$1"
while :; do read -r -t 600 _ <>"$2"; done
