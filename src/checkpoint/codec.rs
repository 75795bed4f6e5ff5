//! Records on disk: `TLCK | kind | version | length | crc32c | bincode`.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tidelock_core::{Code, Error, Position, Result};

const MAGIC: &[u8; 4] = b"TLCK";
const VERSION: u8 = 1;
const HEAD: usize = 14;
/// Far above the largest record, a GTID set of thousands of servers.
const RECORD_BYTES_MAX: usize = 1 << 20;

/// What the checkpoint knows of a flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRecord {
    /// The position that the target committed.
    pub position: Position,
    /// The epoch it was written under.
    pub epoch: u64,
    /// The sequence number it was written under.
    pub seq: u64,
    /// Server and history of the source.
    pub source_identity: String,
    /// The target's durable id.
    pub target_id: String,
    /// When it was saved, milliseconds since 1970.
    pub saved_at_ms: i64,
}

/// The oldest look at the source's log end that the target had not reached: so lag goes on over a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LagRecord {
    /// The log's end at that look.
    pub end: Position,
    /// When it was, milliseconds since 1970 on our clock.
    pub at_ms: i64,
}

/// The kinds of records, never renumbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A [`FlowRecord`].
    Flow = 1,
    /// A slot that is about to be made.
    Intent = 2,
    /// A [`LagRecord`].
    Lag = 3,
    /// The position up to which the target was known to have everything.
    Applied = 4,
}

/// A record as bytes.
pub fn encode<T: Serialize>(kind: Kind, record: &T) -> Result<Vec<u8>> {
    let body = bincode::serde::encode_to_vec(record, bincode::config::standard())
        .map_err(|e| Error::bug(format!("a checkpoint record cannot be encoded: {e}")))?;
    if body.len() > RECORD_BYTES_MAX {
        return Err(Error::bug("a checkpoint record is too large"));
    }
    let length =
        u32::try_from(body.len()).map_err(|_| Error::bug("a checkpoint record is too large"))?;
    let mut bytes = Vec::with_capacity(HEAD + body.len());
    bytes.extend_from_slice(MAGIC);
    bytes.push(kind as u8);
    bytes.push(VERSION);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&checksum(&bytes, &body).to_le_bytes());
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

/// Over head and body, so that no bit of either may turn unnoticed.
fn checksum(head: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(head), body)
}

/// A record from bytes; an error names what is wrong with them.
pub fn decode<T: DeserializeOwned>(kind: Kind, bytes: &[u8]) -> Result<T> {
    let damaged = |what: &str| {
        Error::setup(Code::CheckpointStore, format!("a checkpoint record is damaged: {what}"))
            .with_hint(
                "remove the folder `checkpoint` of state_dir; positions come back from the targets",
            )
    };
    let (head, rest) = bytes.split_at_checked(10).ok_or_else(|| damaged("too short"))?;
    let (sum, body) = rest.split_at_checked(4).ok_or_else(|| damaged("too short"))?;
    if head.get(..4) != Some(MAGIC) {
        return Err(damaged("not a tidelock record"));
    }
    if head.get(4) != Some(&(kind as u8)) {
        return Err(damaged("another kind of record"));
    }
    if head.get(5) != Some(&VERSION) {
        return Err(damaged("a version this program does not know"));
    }
    if sum != checksum(head, body).to_le_bytes()
        || head.get(6..10) != Some(&(body.len() as u32).to_le_bytes()[..])
    {
        return Err(damaged("checksum"));
    }
    // The limit is for lengths that a record claims inside: none is allocated on its word.
    let config = bincode::config::standard().with_limit::<RECORD_BYTES_MAX>();
    let (record, used) =
        bincode::serde::decode_from_slice(body, config).map_err(|_| damaged("content"))?;
    if used == body.len() { Ok(record) } else { Err(damaged("content")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record() -> FlowRecord {
        FlowRecord {
            position: Position::new("0/16B3748"),
            epoch: 3,
            seq: 99,
            source_identity: "pg:1".to_owned(),
            target_id: "00".repeat(16),
            saved_at_ms: 1,
        }
    }

    proptest! {
        #[test]
        fn no_flipped_bit_goes_unnoticed(at in 0usize..100, bit in 0u8..8) {
            let mut bytes = encode(Kind::Flow, &record()).unwrap();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            prop_assert!(decode::<FlowRecord>(Kind::Flow, &bytes).is_err());
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(decode::<FlowRecord>(Kind::Flow, &bytes).is_err());
        }
    }

    #[test]
    fn fuzz_damaged_records_give_an_answer() {
        let corpus = [
            encode(Kind::Flow, &record()).unwrap(),
            encode(Kind::Intent, &"tidelock_erp_crm".to_owned()).unwrap(),
            encode(Kind::Lag, &LagRecord { end: Position::new("0/1"), at_ms: -1 }).unwrap(),
        ];
        let bytes_max = |length: usize| (RECORD_BYTES_MAX + 64 * length) as u64 + 4096;
        tidelock_fuzz::fuzz("checkpoint", &corpus, bytes_max, |bytes| {
            let read = |bytes: &[u8]| {
                (
                    decode::<FlowRecord>(Kind::Flow, bytes).ok(),
                    decode::<String>(Kind::Intent, bytes).ok(),
                    decode::<LagRecord>(Kind::Lag, bytes).ok(),
                )
            };
            if read(bytes) != (None, None, None) {
                assert!(corpus.iter().any(|whole| whole == bytes), "damage went unnoticed");
            }
            // The same bytes with a right head: what the checksum keeps from the decoder behind it.
            let body = bytes.get(HEAD..).unwrap_or(bytes);
            for kind in [Kind::Flow, Kind::Intent, Kind::Lag] {
                let mut forged = [&MAGIC[..], &[kind as u8, VERSION]].concat();
                forged.extend_from_slice(&(body.len() as u32).to_le_bytes());
                forged.extend_from_slice(&checksum(&forged, body).to_le_bytes());
                forged.extend_from_slice(body);
                let _ = read(&forged);
            }
        });
    }

    #[test]
    fn records_round_trip_and_truncation_is_noticed() {
        let bytes = encode(Kind::Flow, &record()).unwrap();
        assert_eq!(decode::<FlowRecord>(Kind::Flow, &bytes).unwrap(), record());
        for end in 0..bytes.len() {
            assert!(decode::<FlowRecord>(Kind::Flow, &bytes[..end]).is_err());
        }
        assert!(decode::<String>(Kind::Intent, &bytes).is_err());
    }
}
