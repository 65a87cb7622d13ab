//! What lies in running_tasks/ and is none of ours.

use crate::world::World;

#[test]
fn an_odd_pid_file_is_said_blocks_its_own_task_only_and_is_never_touched() {
    let mut world = World::new();
    let id = world.task("good");
    world.write(&format!("running_tasks/task_{id}.pid"), "");
    world.start();
    world.good_works();
    world.shows("odd pid file: empty");
    assert_eq!(world.status_of(id), "idle");
}
