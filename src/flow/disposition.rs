//! From an error to what happens next: decided here and nowhere else.

use tidelock_core::{Code, Error, ErrorKind};

/// How the next attempt runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Care {
    /// Batches as large as the limits allow.
    Normal,
    /// One source transaction a target transaction and one row a statement, for this many source
    /// transactions: finds the row that cannot be applied, and applies all that can.
    Careful {
        /// Source transactions to go.
        transactions: u64,
        /// The mapping whose batch was refused: if all pass now, its order was to blame.
        suspect: Option<String>,
    },
}

/// What happens next.
#[derive(Debug)]
pub enum Disposition {
    /// Wait with growing, jittered delay, then a new attempt.
    Retry,
    /// A new attempt at once: somebody else had the flow, or we must look closer.
    Again(Care),
    /// The mapping stops; the next attempt records that in its first transaction.
    StopMapping(String),
    /// The flow halts until a person resumes it.
    Halt,
    /// The flow halts, but looks again by itself from time to time: a right or a setting may be
    /// mended without telling us.
    HaltAndLook,
}

/// Where an error came up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scene {
    /// The mapping it is about, where that is certain.
    pub mapping: Option<String>,
    /// How the attempt ran.
    pub careful: bool,
    /// Source transactions in the target transaction that failed.
    pub transactions: u64,
}

/// Tries in a row of what a trigger or routine wants tried again, until it is taken for a refusal of its row.
pub const RAISED_TRIES: u32 = 5;

/// Whether somebody's own code raised it as a conflict with another transaction, where the server met none.
pub fn is_raised(error: &Error) -> bool {
    error.kind() == ErrorKind::Transient && error.code() == Code::Rejected
}

/// The one decision; `raised` is how often in a row it was asked for another try, this time included.
pub fn dispose(error: &Error, scene: &Scene, raised: u32) -> Disposition {
    match error.kind() {
        ErrorKind::Transient if is_raised(error) && raised > RAISED_TRIES => {
            let refused = Error::data(error.code(), error.message());
            dispose(&refused, scene, 0)
        }
        ErrorKind::Transient => Disposition::Retry,
        ErrorKind::Fenced => Disposition::Retry,
        // Whatever was called is committed without the position: nothing may be called again.
        ErrorKind::Data if error.code() == Code::RoutineCommits && scene.mapping.is_some() => {
            Disposition::StopMapping(scene.mapping.clone().unwrap_or_default())
        }
        ErrorKind::Data if !scene.careful => {
            let (transactions, suspect) = (scene.transactions + 1, scene.mapping.clone());
            Disposition::Again(Care::Careful { transactions, suspect })
        }
        ErrorKind::Data => match &scene.mapping {
            Some(mapping) => Disposition::StopMapping(mapping.clone()),
            None => Disposition::Halt,
        },
        ErrorKind::Setup => Disposition::HaltAndLook,
        ErrorKind::Continuity | ErrorKind::Config | ErrorKind::Bug => Disposition::Halt,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scene(mapping: Option<&str>, careful: bool) -> Scene {
        Scene { mapping: mapping.map(str::to_owned), careful, transactions: 3 }
    }

    #[test]
    fn a_data_error_is_looked_at_closely_before_a_mapping_stops() {
        let error = Error::data(Code::Constraint, "refused");
        assert!(matches!(
            dispose(&error, &scene(Some("orders"), false), 0),
            Disposition::Again(Care::Careful { transactions: 4, suspect: Some(m) }) if m == "orders"
        ));
        assert!(
            matches!(dispose(&error, &scene(Some("orders"), true), 0), Disposition::StopMapping(m) if m == "orders")
        );
        assert!(matches!(dispose(&error, &scene(None, true), 0), Disposition::Halt));
    }

    #[test]
    fn a_conflict_that_is_raised_again_and_again_is_a_refusal() {
        let error = Error::new(ErrorKind::Transient, Code::Rejected, "raised");
        let of = |careful, raised| dispose(&error, &scene(Some("orders"), careful), raised);
        assert!(matches!(of(false, RAISED_TRIES), Disposition::Retry));
        assert!(matches!(of(false, RAISED_TRIES + 1), Disposition::Again(_)));
        assert!(matches!(of(true, RAISED_TRIES + 2), Disposition::StopMapping(m) if m == "orders"));
    }

    #[test]
    fn doubt_about_the_history_halts_and_the_world_is_retried() {
        let lost = Error::continuity(Code::SlotMissing, "gone");
        assert!(matches!(dispose(&lost, &scene(None, false), 0), Disposition::Halt));
        let down = Error::transient(Code::Unreachable, "down");
        assert!(matches!(dispose(&down, &scene(None, true), 0), Disposition::Retry));
    }
}
