//! `tidelock demo`.
use super::Outcome;
/// Placeholder until wired.
pub async fn demo(_seconds: u64) -> Outcome {
    Ok(std::process::ExitCode::from(super::FAILED))
}
