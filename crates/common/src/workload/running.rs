//! The tasks behind the sources.

use tokio::task::JoinSet;

/// The tasks that keep sources current. They end when it is dropped.
#[derive(Debug)]
pub(super) struct Running {
    _tasks: JoinSet<()>,
}

impl Running {
    pub(super) fn new(tasks: JoinSet<()>) -> Self {
        Self { _tasks: tasks }
    }
}
