//! How much of the machine others had meanwhile.

use std::time::Instant;

use crate::process::{Cpu, TICKS_A_SECOND};

/// The machine at one moment.
pub struct Machine {
    at: Instant,
    busy: f64,
    own: f64,
}

impl Machine {
    pub fn now() -> Machine {
        let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let ticks: Vec<f64> = stat
            .lines()
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .skip(1)
            .filter_map(|t| t.parse().ok())
            .collect();
        // user, nice, system, then idle and iowait, then interrupts and what the host took.
        let busy = ticks
            .iter()
            .enumerate()
            .filter(|(i, _)| !matches!(i, 3 | 4 | 8 | 9))
            .map(|(_, t)| t)
            .sum::<f64>();
        Machine {
            at: Instant::now(),
            busy: busy / TICKS_A_SECOND,
            own: Cpu::of(std::process::id()).sum(),
        }
    }

    /// The share of all cores since then that was neither ours nor `measured`.
    pub fn foreign(&self, measured: f64) -> f64 {
        let now = Machine::now();
        let cores = std::thread::available_parallelism().map_or(1.0, |n| n.get() as f64);
        let others = now.busy - self.busy - (now.own - self.own) - measured;
        (others / (now.at - self.at).as_secs_f64() / cores).clamp(0.0, 1.0)
    }
}
