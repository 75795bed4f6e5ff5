//! What a snapshot shows.

use tidelock_core::TransactionId;

/// Which transactions a snapshot shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Visible {
    min: u64,
    max: u64,
    running: Vec<u64>,
}

impl Visible {
    /// Reads the text of a `pg_snapshot`: `xmin:xmax:xip,xip,…`.
    pub(super) fn parse(text: &str) -> Option<Visible> {
        let mut parts = text.splitn(3, ':');
        let min = parts.next()?.parse().ok()?;
        let max = parts.next()?.parse().ok()?;
        let running = parts
            .next()?
            .split(',')
            .filter(|xid| !xid.is_empty())
            .map(|xid| xid.parse().ok())
            .collect::<Option<Vec<u64>>>()?;
        Some(Visible { min, max, running })
    }

    /// Whether a committed transaction is shown. The log numbers them with 32 bits only; the one
    /// meant is the nearest, as no number lives for two thousand million others.
    pub(super) fn shows(&self, id: TransactionId) -> bool {
        let ahead = (id.0 as u32).wrapping_sub(self.max as u32) as i32;
        let full = self.max.wrapping_add_signed(i64::from(ahead));
        full < self.min || (full < self.max && !self.running.contains(&full))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_shows_what_had_ended_and_nothing_else() {
        let visible = Visible::parse("100:105:100,103").unwrap_or(Visible {
            min: 0,
            max: 0,
            running: vec![],
        });
        let shows = |xid| visible.shows(TransactionId(xid));
        assert!(shows(99) && shows(101) && shows(104));
        assert!(!shows(100) && !shows(103) && !shows(105) && !shows(4_000));
        assert_eq!(Visible::parse("7:7:").map(|v| v.running.len()), Some(0));
        assert_eq!(Visible::parse("x"), None);
    }

    #[test]
    fn numbers_of_32_bits_are_taken_for_the_nearest() {
        let epoch = 3u64 << 32;
        let visible = Visible { min: epoch + 5, max: epoch + 10, running: vec![epoch + 7] };
        assert!(visible.shows(TransactionId(6)) && !visible.shows(TransactionId(7)));
        assert!(visible.shows(TransactionId(u64::from(u32::MAX))), "from before the wrap");
        assert!(!visible.shows(TransactionId(10)));
    }
}
