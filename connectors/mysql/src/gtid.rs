//! GTID sets of both flavours, and the position text made of them.
//!
//! MariaDB keeps one last GTID a domain, and inside a domain sequence numbers grow whatever server
//! wrote them: a set contains another if each domain has come at least as far. The same domain and
//! number from two different servers are two histories. MySQL keeps the intervals of every server
//! (and tag) apart, so containment is that of sets.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use tidelock_core::{Code, Error, Position, PositionOrder, Result};

/// A MariaDB position: the last GTID of each domain (`0-1-100,1-2-5`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MariaGtidSet(BTreeMap<u32, (u32, u64)>);

impl MariaGtidSet {
    /// Sets the last GTID of a domain.
    pub fn advance(&mut self, domain: u32, server: u32, seq: u64) {
        self.0.insert(domain, (server, seq));
    }

    /// The server and sequence number a domain has come to.
    pub fn last(&self, domain: u32) -> Option<(u32, u64)> {
        self.0.get(&domain).copied()
    }

    /// Whether the last transaction of every domain is of this server's.
    pub fn is_by(&self, server: u32) -> bool {
        !self.0.is_empty() && self.0.values().all(|(last, _)| *last == server)
    }

    /// Whether some domain has come to the same GTID in both.
    pub fn meets(&self, other: &MariaGtidSet) -> bool {
        self.0.iter().any(|(domain, last)| other.0.get(domain) == Some(last))
    }

    /// Whether everything in `other` is in `self`.
    pub fn contains(&self, other: &MariaGtidSet) -> bool {
        other.0.iter().all(|(domain, (server, seq))| {
            self.0.get(domain).is_some_and(|(s, n)| n > seq || (n == seq && s == server))
        })
    }
}

impl fmt::Display for MariaGtidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (domain, (server, seq))) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{domain}-{server}-{seq}")?;
        }
        Ok(())
    }
}

impl FromStr for MariaGtidSet {
    type Err = ();

    fn from_str(text: &str) -> std::result::Result<Self, ()> {
        let mut set = MariaGtidSet::default();
        for gtid in text.split(',').map(str::trim).filter(|g| !g.is_empty()) {
            let mut parts = gtid.split('-');
            let mut next = || parts.next().ok_or(());
            let domain = next()?.parse().map_err(drop)?;
            let server = next()?.parse().map_err(drop)?;
            let seq = next()?.parse().map_err(drop)?;
            if parts.next().is_some() || set.0.insert(domain, (server, seq)).is_some() {
                return Err(());
            }
        }
        Ok(set)
    }
}

/// A MySQL GTID set (`uuid:1-5:7,uuid:tag:1-3`): inclusive intervals by server and tag.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MySqlGtidSet(BTreeMap<(String, String), Vec<(u64, u64)>>);

impl MySqlGtidSet {
    /// Adds the numbers `first..=last` of a server and tag (empty: untagged).
    pub fn add(&mut self, uuid: &str, tag: &str, first: u64, last: u64) {
        if first > last {
            return;
        }
        // The way of the stream: the next number of a known server.
        let key = (uuid.to_ascii_lowercase(), tag.to_ascii_lowercase());
        let intervals = self.0.entry(key).or_default();
        if let Some(end) = intervals.last_mut()
            && end.1.checked_add(1) == Some(first)
        {
            end.1 = last;
            return;
        }
        intervals.push((first, last));
        intervals.sort_unstable();
        let mut merged: Vec<(u64, u64)> = Vec::with_capacity(intervals.len());
        for &(a, b) in intervals.iter() {
            match merged.last_mut() {
                Some(prev) if a <= prev.1.saturating_add(1) => prev.1 = prev.1.max(b),
                _ => merged.push((a, b)),
            }
        }
        *intervals = merged;
    }

    /// Whether everything in `other` is in `self`.
    pub fn contains(&self, other: &MySqlGtidSet) -> bool {
        other.0.iter().all(|(key, theirs)| {
            let ours = self.0.get(key).map_or(&[][..], Vec::as_slice);
            theirs.iter().all(|(a, b)| ours.iter().any(|(x, y)| x <= a && b <= y))
        })
    }

    /// Everything in either set.
    #[must_use]
    pub fn union(&self, other: &MySqlGtidSet) -> MySqlGtidSet {
        let mut sum = self.clone();
        for ((uuid, tag), intervals) in &other.0 {
            for (a, b) in intervals {
                sum.add(uuid, tag, *a, *b);
            }
        }
        sum
    }

    /// One text a server and tag, as the dump request wants them.
    pub fn blocks(&self) -> Vec<String> {
        self.0.iter().map(|(key, intervals)| block(key, intervals)).collect()
    }
}

fn block((uuid, tag): &(String, String), intervals: &[(u64, u64)]) -> String {
    let mut text = uuid.clone();
    if !tag.is_empty() {
        text.push(':');
        text.push_str(tag);
    }
    for (a, b) in intervals {
        text.push_str(&if a == b { format!(":{a}") } else { format!(":{a}-{b}") });
    }
    text
}

impl fmt::Display for MySqlGtidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.blocks().join(","))
    }
}

impl FromStr for MySqlGtidSet {
    type Err = ();

    fn from_str(text: &str) -> std::result::Result<Self, ()> {
        let mut set = MySqlGtidSet::default();
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let mut fields = part.split(':').map(str::trim);
            let uuid = fields.next().ok_or(())?;
            let hex = uuid.len() == 36
                && uuid.bytes().enumerate().all(|(i, b)| match i {
                    8 | 13 | 18 | 23 => b == b'-',
                    _ => b.is_ascii_hexdigit(),
                });
            if !hex {
                return Err(());
            }
            let (mut tag, mut any) = ("", false);
            for field in fields {
                if field.starts_with(|c: char| c.is_ascii_digit()) {
                    let (a, b) = field.split_once('-').unwrap_or((field, field));
                    let (a, b) = (a.parse().map_err(drop)?, b.parse().map_err(drop)?);
                    if a == 0 || a > b {
                        return Err(());
                    }
                    set.add(uuid, tag, a, b);
                    any = true;
                } else {
                    let good = !field.is_empty()
                        && field.len() <= 32
                        && field.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
                    if !good {
                        return Err(());
                    }
                    tag = field;
                }
            }
            if !any {
                return Err(());
            }
        }
        Ok(set)
    }
}

/// A GTID set of either flavour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GtidSet {
    /// MariaDB's.
    MariaDb(MariaGtidSet),
    /// MySQL's.
    MySql(MySqlGtidSet),
}

impl GtidSet {
    /// Whether everything in `other` is in `self`. The empty set is in every set.
    pub fn contains(&self, other: &GtidSet) -> bool {
        match (self, other) {
            (GtidSet::MariaDb(a), GtidSet::MariaDb(b)) => a.contains(b),
            (GtidSet::MySql(a), GtidSet::MySql(b)) => a.contains(b),
            (_, GtidSet::MariaDb(b)) => b.0.is_empty(),
            (_, GtidSet::MySql(b)) => b.0.is_empty(),
        }
    }

    /// How two sets lie to each other.
    pub fn order(&self, other: &GtidSet) -> PositionOrder {
        match (self.contains(other), other.contains(self)) {
            (true, true) => PositionOrder::Equal,
            (true, false) => PositionOrder::After,
            (false, true) => PositionOrder::Before,
            (false, false) => PositionOrder::Diverged,
        }
    }
}

impl fmt::Display for GtidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GtidSet::MariaDb(set) => set.fmt(f),
            GtidSet::MySql(set) => set.fmt(f),
        }
    }
}

impl FromStr for GtidSet {
    type Err = ();

    fn from_str(text: &str) -> std::result::Result<Self, ()> {
        if text.contains(':') {
            text.parse().map(GtidSet::MySql)
        } else {
            text.parse().map(GtidSet::MariaDb)
        }
    }
}

/// Where in which binlog file: advisory only, since files differ from server to server and offsets
/// wrap at 4 GiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileOffset {
    /// The binlog file.
    pub file: String,
    /// The offset of the next event.
    pub offset: u64,
}

impl FileOffset {
    /// Whether this place is not before another of the same server.
    pub(crate) fn reaches(&self, other: &FileOffset) -> bool {
        let (Some(ours), Some(theirs)) = (self.file.rsplit_once('.'), other.file.rsplit_once('.'))
        else {
            return false;
        };
        match (ours.1.parse::<u64>(), theirs.1.parse::<u64>()) {
            (Ok(our), Ok(their)) => {
                ours.0 == theirs.0 && (our, self.offset) >= (their, other.offset)
            }
            _ => false,
        }
    }
}

/// A position: the GTID set, and the file and offset where known (`0-1-5|bin.000003:1234`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BinlogPosition {
    /// Everything up to here.
    pub gtids: GtidSet,
    /// And where that is on the server it was read from.
    pub at: Option<FileOffset>,
}

impl fmt::Display for BinlogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        put_position(f, &self.gtids, self.at.as_ref().map(|at| (at.file.as_str(), at.offset)))
    }
}

/// Writes a position whose parts are not in one place.
pub(crate) fn put_position(
    out: &mut impl fmt::Write,
    gtids: &GtidSet,
    at: Option<(&str, u64)>,
) -> fmt::Result {
    write!(out, "{gtids}")?;
    match at {
        Some((file, offset)) => write!(out, "|{file}:{offset}"),
        None => Ok(()),
    }
}

impl FromStr for BinlogPosition {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::new(
                tidelock_core::ErrorKind::Config,
                Code::Config,
                format!("not a GTID position: '{text}'"),
            )
            .with_hint("write a GTID set: 0-1-100 on MariaDB, uuid:1-100 on MySQL")
        };
        let (gtids, at) = match text.split_once('|') {
            Some((gtids, at)) => {
                let (file, offset) = at.rsplit_once(':').ok_or_else(bad)?;
                let offset = offset.parse().map_err(|_| bad())?;
                (gtids, Some(FileOffset { file: file.to_owned(), offset }))
            }
            None => (text, None),
        };
        Ok(BinlogPosition { gtids: gtids.trim().parse().map_err(|()| bad())?, at })
    }
}

impl BinlogPosition {
    /// The engine's form of it.
    pub fn to_position(&self) -> Position {
        Position::new(self.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

    #[test]
    fn places_of_one_log_are_ordered_by_file_then_offset() {
        let at = |file: &str, offset| FileOffset { file: file.into(), offset };
        assert!(at("b.000010", 4).reaches(&at("b.000009", 900)));
        assert!(at("b.1000000", 4).reaches(&at("b.999999", 900)));
        assert!(at("b.000009", 900).reaches(&at("b.000009", 900)));
        assert!(!at("b.000009", 899).reaches(&at("b.000009", 900)));
        assert!(!at("c.000010", 4).reaches(&at("b.000009", 900)));
    }

    #[test]
    fn sets_order_by_containment() {
        let p = |t: &str| t.parse::<GtidSet>().unwrap();
        assert_eq!(p("0-1-5").order(&p("0-2-9")), PositionOrder::Before);
        assert_eq!(p("0-1-5").order(&p("0-2-5")), PositionOrder::Diverged);
        assert_eq!(p("0-1-5,1-1-2").order(&p("0-1-6")), PositionOrder::Diverged);
        assert_eq!(p("").order(&p("0-1-1")), PositionOrder::Before);
        assert_eq!(p("").order(&p(&format!("{A}:1-5"))), PositionOrder::Before);
        let gaps = p(&format!("{A}:1-5:7"));
        assert_eq!(gaps.to_string(), format!("{A}:1-5:7"));
        assert_eq!(gaps.order(&p(&format!("{A}:1-7"))), PositionOrder::Before);
        let tagged = p(&format!("{A}:1-14:mytag:1-3"));
        assert_eq!(tagged.to_string(), format!("{A}:1-14,{A}:mytag:1-3"));
        assert_eq!(tagged.order(&p(&tagged.to_string())), PositionOrder::Equal);
    }

    #[test]
    fn positions_round_trip_and_nonsense_is_refused() {
        for text in ["0-1-5|bin.000001:42", "0-1-5", "|bin.1:4", ""] {
            assert_eq!(text.parse::<BinlogPosition>().unwrap().to_string(), text);
        }
        for text in ["0-1", "a-b-c", "0-1-5|x", "0-1-5,0-2-6", "x:1", "1/2"] {
            assert!(text.parse::<BinlogPosition>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_union_contains_both_and_round_trips(
            a in proptest::collection::vec((1u64..60, 0u64..9), 0..9),
            b in proptest::collection::vec((1u64..60, 0u64..9), 0..9),
        ) {
            let set = |v: &[(u64, u64)]| {
                let mut s = MySqlGtidSet::default();
                for (x, n) in v { s.add(A, "", *x, x + n); }
                s
            };
            let (a, b) = (set(&a), set(&b));
            let u = a.union(&b);
            prop_assert!(u.contains(&a) && u.contains(&b));
            prop_assert_eq!(u.to_string().parse::<MySqlGtidSet>(), Ok(u.clone()));
            prop_assert_eq!(a.contains(&b), u == a);
        }

        #[test]
        fn parsing_never_panics(text in ".{0,60}") {
            let _ = text.parse::<BinlogPosition>();
        }
    }
}
