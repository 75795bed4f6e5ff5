//! The flow of the other direction, as copies see it: rows of the target may be on their way to the source.
//!
//! **Pieces that are looked at twice.** Where the other direction writes the same columns, the target's own users may have changed a row of which the source
//! does not know yet. A backfill or a resync that wrote the row as it was read would take that change back; and since what we write is an echo to the
//! other direction, the two sides would differ from then on. So a piece of such a mapping is only a list of keys:
//!
//! 1. the rows of these keys are locked at the target: whoever changed them has committed, and whoever will waits;
//! 2. the other direction passes the end that the target's log has now (it has been waited for before, with nothing locked);
//! 3. the rows are read at the source once more, as keys that are read again are, and written in the transaction that holds the locks.
//!
//! A row that only the source has cannot be locked. If users of the target insert it between the second step and the third, both sides have made a row of one
//! key, and the source's is what stays.
//!
//! While the other direction's mapping is stopped or paused, nothing can be waited for, and rows are written as they were read: what the target's users changed meanwhile is
//! the source's again.
//!
//! Two copies of the same rows never go at once: neither could be waited for. The one that is under way goes on, else that of the flow whose name comes first. The other
//! one waits and has not begun: until it does, its mapping is followed as ever ([`crate::flow::copies::is_followed`]), so that the first has what to wait for. A mapping that is
//! compared because it was stopped, and a flow that is compared at a new position, cannot be followed before.
//!
//! A first copy needs none of this: the other direction waits for its end and follows it ([`super::region`]).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidelock_core::{Connector, Error, Position, Result, Side, SourceSpec};

use crate::flow::copies::Mirror;
use crate::flow::shared::MappingShared;
use crate::flow::{FlowShared, FlowState};

/// Held while a copy looks whether one of the other direction goes first.
static GATE: Mutex<()> = Mutex::new(());

/// Between two looks how far it has come.
const LOOK: Duration = Duration::from_millis(2);

/// The flow that reads the target.
#[derive(Clone)]
pub struct Reverse {
    /// What it shows.
    pub shared: Arc<FlowShared>,
    /// What it reads.
    pub spec: SourceSpec,
    /// The system it reads: our target.
    pub system: Arc<dyn Connector>,
    /// Our mappings of whose columns it writes some.
    pub mirrors: Arc<[Mirror]>,
}

impl Reverse {
    fn mirrors_of(&self, mapping: &str) -> impl Iterator<Item = &Mirror> {
        self.mirrors.iter().filter(move |mirror| *mirror.ours == *mapping)
    }

    /// Whether it writes columns of a mapping of ours.
    pub fn mirrors_any(&self, mapping: &str) -> bool {
        self.mirrors_of(mapping).next().is_some()
    }

    /// Whether it is about to start, as it is for a moment when the file is read anew.
    fn is_coming(&self) -> bool {
        match self.shared.state().0 {
            FlowState::Starting | FlowState::Retrying => true,
            FlowState::Stopped => self.shared.config().is_some(),
            FlowState::Streaming
            | FlowState::Snapshotting
            | FlowState::Paused
            | FlowState::Halted => false,
        }
    }

    /// Whether it brings what the target's users do to the rows of a mapping of ours, so that it can be waited for.
    pub fn brings(&self, mapping: &str) -> bool {
        let (known, is_coming) = (self.shared.mappings(), self.is_coming());
        (self.shared.flows() || is_coming)
            && self.mirrors_of(mapping).any(|mirror| match known.get(&*mirror.theirs) {
                Some(theirs) => !theirs.is_stopped() && !theirs.lacks_rows(),
                None => is_coming,
            })
    }

    /// Whether it will, if it is waited for: it is about to start, or its own copy of the same rows goes before ours. If neither, ours begins.
    pub fn goes_before(&self, mapping: &str, ours: &FlowShared) -> bool {
        // Two that look at each other at once see each other.
        let _one = GATE.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.is_before(mapping, ours);
        if !before {
            ours.copy_begins(mapping);
        }
        before
    }

    fn is_before(&self, mapping: &str, ours: &FlowShared) -> bool {
        let known = self.shared.mappings();
        let mirrors = || {
            let all = self.mirrors_of(mapping).map(|mirror| known.get(&*mirror.theirs));
            all.filter(|theirs| theirs.is_none_or(|theirs| !theirs.is_stopped()))
        };
        let own = ours.mappings().get(mapping).cloned();
        let is_under_way = own.as_ref().is_some_and(|own| own.is_under_way());
        let lacks_rows = own.is_some_and(|own| own.lacks_rows());
        let first = self.shared.name < ours.name;
        let goes_first = |theirs: &MappingShared| {
            // A sweep waits until nothing lacks here.
            let sweeps = theirs.is_swept() && !lacks_rows;
            let copies = theirs.is_copied()
                && match (is_under_way, theirs.is_under_way()) {
                    (true, false) => false,
                    (false, true) => true,
                    (true, true) | (false, false) => first,
                };
            sweeps || copies
        };
        (self.is_coming() && mirrors().next().is_some())
            || (self.shared.flows() && mirrors().flatten().any(|theirs| goes_first(theirs)))
    }

    /// Where the target's log ends, with all in it that anybody sees there: what was committed without waiting for the disk may not
    /// count as logged before the next commit that waits.
    pub async fn end(&self) -> Result<Position> {
        self.system.heartbeat().await.map_err(|e| e.of(Side::Target))?;
        Ok(self.system.probe(&self.spec, None).await.map_err(|e| e.of(Side::Target))?.end)
    }

    /// Whether it has applied everything up to a place.
    pub fn has_passed(&self, end: &Position) -> Result<bool> {
        let applied = self.shared.applied.borrow().clone();
        let Some(applied) = applied else { return Ok(false) };
        Ok(self.system.compare(&applied, end)?.reached())
    }

    /// Waits until it has applied everything that the target's log holds now; an error if that takes longer.
    pub async fn pass(&self, most: Duration) -> Result<()> {
        let passing = async {
            let end = self.end().await?;
            while !self.has_passed(&end)? {
                // A log at rest is asked for its end.
                self.shared.nudge.notify_one();
                tokio::time::sleep(LOOK).await;
            }
            Ok(())
        };
        tokio::time::timeout(most, passing).await.unwrap_or_else(|_| {
            Err(Error::transient(
                tidelock_core::Code::ServerBusy,
                format!(
                    "rows of the target wait for flow {} to bring what was changed there, and it takes longer than {} s",
                    self.shared.name,
                    most.as_secs()
                ),
            ))
        })
    }
}
