//! Mutation fuzzing on stable Rust, inside ordinary tests.
//!
//! [`fuzz`] feeds a check with damaged forms of recorded inputs: first each input cut at every byte
//! and with every byte turned, then mutations drawn from a seed until the time is over. Each case is
//! held to three laws: no panic, an end within seconds, and no more memory than its length allows
//! (counted for this thread by the allocator, so tests beside it do not matter).
//!
//! A case is made from its own seed alone. The seed that a failure prints, given as
//! `TIDELOCK_FUZZ_SEED`, makes that case the first of the next run. `TIDELOCK_FUZZ_SECONDS` is the
//! time of each test; without it, a second.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// A case that takes longer than this has no end.
const CASE_TIME_MAX: Duration = Duration::from_secs(20);
/// Numbers at which lengths and counts go wrong.
const EXTREMES: [u64; 8] =
    [0, 1, 0x7f, 0x80, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0x7fff_ffff_ffff_ffff];

/// Runs `check` over damaged forms of `corpus`. A case of `n` bytes may have `bytes_max(n)` bytes
/// allocated at a time.
///
/// # Panics
/// If the check does, or a case takes too much memory; the case's seed and bytes are printed.
pub fn fuzz(
    name: &str,
    corpus: &[Vec<u8>],
    bytes_max: impl Fn(usize) -> u64,
    mut check: impl FnMut(&[u8]),
) {
    let seconds = number("TIDELOCK_FUZZ_SECONDS");
    let end = Instant::now() + Duration::from_secs(seconds.unwrap_or(1));
    let seed = number("TIDELOCK_FUZZ_SEED");
    let watch = Watch::begin(name);
    let mut case = |seed: Option<u64>, bytes: &[u8]| {
        let _shown = Shown { name, seed, bytes };
        watch.next(seed);
        let used = allocation_counter::measure(|| check(bytes));
        let max = bytes_max(bytes.len());
        assert!(used.bytes_max <= max, "{} bytes allocated, at most {max}", used.bytes_max);
    };
    if seed.is_none() {
        let middle = Instant::now() + (end - Instant::now()) / 2;
        every_byte(corpus, middle, &mut |bytes| case(None, bytes));
    }
    let seed = seed.unwrap_or_else(|| rand::rng().random());
    for n in 0.. {
        let seed = seed.wrapping_add(n);
        case(Some(seed), &mutated(corpus, seed));
        if Instant::now() > end {
            writeln!(std::io::stdout(), "{name}: {} mutations", n + 1).unwrap_or_default();
            return;
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is not a number")))
}

/// Each input whole, cut at every byte, and with every byte turned; gives up at `end`.
fn every_byte(corpus: &[Vec<u8>], end: Instant, case: &mut impl FnMut(&[u8])) {
    for input in corpus {
        case(input);
        let mut damaged = input.clone();
        for at in 0..input.len() {
            if Instant::now() > end {
                return;
            }
            case(&input[..at]);
            for turned in [input[at] ^ 1, input[at] ^ 0x80, !input[at]] {
                damaged[at] = turned;
                case(&damaged);
            }
            damaged[at] = input[at];
        }
    }
}

/// An input with one to eight mutations, all drawn from the seed.
fn mutated(corpus: &[Vec<u8>], seed: u64) -> Vec<u8> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut any = |corpus: &[Vec<u8>]| corpus[rng.random_range(0..corpus.len())].clone();
    let (mut bytes, other) = (any(corpus), any(corpus));
    for _ in 0..rng.random_range(1..=8) {
        mutate(&mut bytes, &other, &mut rng);
    }
    bytes
}

fn mutate(bytes: &mut Vec<u8>, other: &[u8], rng: &mut StdRng) {
    let at = rng.random_range(0..=bytes.len());
    let to = (at + rng.random_range(0..=16)).min(bytes.len());
    match rng.random_range(0..8) {
        0 => bytes.truncate(at),
        1 => drop(bytes.drain(at..to)),
        2 => bytes.insert(at, rng.random()),
        3 => {
            let again = bytes[at..to].to_vec();
            bytes.splice(at..at, again);
        }
        4 => {
            let from = rng.random_range(0..=other.len());
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
        5 => {
            let extreme = EXTREMES[rng.random_range(0..EXTREMES.len())].to_be_bytes();
            let width = [1, 2, 4, 8][rng.random_range(0..4)];
            let end = (at + width).min(bytes.len());
            bytes.splice(at..end, extreme[8 - width..].iter().copied());
        }
        6 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
        _ if at < bytes.len() => bytes[at] = rng.random(),
        _ => {}
    }
}

/// Prints the case if the check panics under it.
struct Shown<'a> {
    name: &'a str,
    seed: Option<u64>,
    bytes: &'a [u8],
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seed = self.seed.map_or_else(String::new, |s| format!(" TIDELOCK_FUZZ_SEED={s}"));
            let hex: String = self.bytes.iter().map(|b| format!("{b:02x}")).collect();
            writeln!(std::io::stderr(), "{}:{seed} bytes {hex}", self.name).unwrap_or_default();
        }
    }
}

/// Ends the process when a case does not end: nothing else could.
struct Watch {
    cases: Arc<AtomicU64>,
    seed: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Watch {
    fn begin(name: &str) -> Watch {
        let watch = Watch { cases: Arc::default(), seed: Arc::default(), over: Arc::default() };
        let (cases, seed, over) = (watch.cases.clone(), watch.seed.clone(), watch.over.clone());
        let name = name.to_owned();
        std::thread::spawn(move || {
            let (mut seen, mut since) = (0, Instant::now());
            while !over.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(100));
                let now = cases.load(Ordering::Relaxed);
                if now != seen {
                    (seen, since) = (now, Instant::now());
                } else if since.elapsed() > CASE_TIME_MAX {
                    let seed = seed.load(Ordering::Relaxed);
                    let said =
                        format!("{name}: case {now} does not end, TIDELOCK_FUZZ_SEED={seed}");
                    writeln!(std::io::stderr(), "{said}").unwrap_or_default();
                    std::process::exit(101);
                }
            }
        });
        watch
    }

    fn next(&self, seed: Option<u64>) {
        self.seed.store(seed.unwrap_or_default(), Ordering::Relaxed);
        self.cases.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_the_same_case_again_and_others_differ() {
        let corpus = vec![b"one input".to_vec(), b"another, longer input".to_vec()];
        for seed in 0..100 {
            assert_eq!(mutated(&corpus, seed), mutated(&corpus, seed));
        }
        assert!((0..100).any(|seed| !corpus.contains(&mutated(&corpus, seed))));
    }

    #[test]
    #[should_panic(expected = "bytes allocated, at most 64")]
    fn memory_out_of_proportion_is_noticed() {
        fuzz("memory", &[b"x".to_vec()], |_| 64, |_| drop(std::hint::black_box(vec![0u8; 4096])));
    }
}
