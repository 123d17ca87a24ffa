//! Duties that one agent of the cluster does at a time: who leads, and for how long.

use std::any::Any;
use std::fmt;

use tokio::sync::watch;

/// Held by who leads. To drop it is to step down.
pub struct Leadership {
    lost: watch::Receiver<bool>,
    /// What keeps others from leading.
    _hold: Box<dyn Any + Send + Sync>,
}

impl Leadership {
    /// The leadership that `hold` keeps until it is dropped, or `lost` says that it is over. Whoever sends there may go away with the
    /// leadership still held, but not without: an end of the channel is a loss too.
    pub fn new(lost: watch::Receiver<bool>, hold: impl Any + Send + Sync) -> Self {
        Self { lost, _hold: Box::new(hold) }
    }

    /// Whether somebody else may lead now.
    pub fn is_lost(&self) -> bool {
        *self.lost.borrow() || self.lost.has_changed().is_err()
    }

    /// Returns when somebody else may lead; what is under way had better stop then. Writes compare and swap, so nothing breaks meanwhile.
    pub async fn lost(&mut self) {
        let _ = self.lost.wait_for(|lost| *lost).await;
    }
}

impl fmt::Debug for Leadership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leadership").field("lost", &self.is_lost()).finish_non_exhaustive()
    }
}
