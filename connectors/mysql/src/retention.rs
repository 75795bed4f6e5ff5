//! How long the server still keeps the log that a flow needs. A binlog has no slots: the server removes files by age
//! or by total size, whoever still reads them.
//!
//! **By age.** A file is removed when its last write is older than the expiry, and only when the server rotates its
//! log, starts or is told to, so the answer is never too long by the server's own rule. The last write of a file is
//! when its successor was begun, which the first event of the successor tells: it is read once a file, by a dump that
//! ends there. A file that is still the newest one has the whole expiry before it.
//!
//! **By size.** `max_binlog_total_size` (MariaDB 11.4) and `binlog_space_limit` (Percona) remove the oldest files
//! once all together are larger. So what may still be written is the limit without the files from ours on.
//!
//! `SHOW BINARY LOGS` looks at every file while it holds the log's lock, so it is asked at most once in ten seconds,
//! and not at all while our file is the newest one and no limit is set.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use mysql_async::BinlogStreamRequest;
use tidelock_core::{Error, Result};

use crate::binlog::kind;
use crate::config::Endpoint;
use crate::gtid::FileOffset;
use crate::session::{CONNECT, Session, within};

/// How often the server is asked at most.
const EVERY: Duration = Duration::from_secs(10);
/// A dump from a file's start opens with its name and its description.
const EVENTS_MAX: usize = 4;

/// What the server is asked for seldom; made once a connector.
#[derive(Debug, Default)]
pub(crate) struct Retention {
    limits: Option<(Instant, Limits)>,
    files: Option<(Instant, Vec<File>)>,
    /// The last file whose beginning was asked for, and when that was, by the server's clock.
    begun: Option<(String, u64)>,
}

/// When the server removes files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Limits {
    age_seconds: Option<u64>,
    total_bytes: Option<u64>,
}

/// A file of the binlog, oldest first in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
struct File {
    name: String,
    bytes: u64,
}

/// What is kept for a position, and for how long.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Kept {
    /// Log from the position to the end.
    pub bytes: Option<u64>,
    /// Log that may still be written before the position's file is removed.
    pub headroom_bytes: Option<u64>,
    /// Time until the position's file may be removed.
    pub headroom_seconds: Option<f64>,
}

impl Retention {
    /// What is kept for `from`, with the log's end at `end`. Nothing is known of a position whose file is not there
    /// (any more, or on this server).
    pub async fn look(
        &mut self,
        session: &mut Session,
        endpoint: &Endpoint,
        from: &FileOffset,
        end: &FileOffset,
    ) -> Result<Kept> {
        let limits = self.limits(session).await?;
        let newest = from.file == end.file;
        if newest && limits.total_bytes.is_none() {
            return Ok(Kept {
                bytes: Some(end.offset.saturating_sub(from.offset)),
                headroom_bytes: None,
                headroom_seconds: limits.age_seconds.map(|s| s as f64),
            });
        }
        if self.files.as_ref().is_none_or(|(at, _)| at.elapsed() >= EVERY) {
            self.files = Some((Instant::now(), files(session).await?));
        }
        let files = self.files.as_ref().map_or(&[][..], |(_, files)| files);
        let Some(span) = span(files, from, end) else { return Ok(Kept::default()) };
        let headroom_bytes = limits.total_bytes.map(|limit| limit.saturating_sub(span.whole));
        let headroom_seconds = match (limits.age_seconds, span.successor) {
            (None, _) => None,
            (Some(age), None) => Some(age as f64),
            (Some(age), Some(successor)) => {
                let closed = self.begun(endpoint, &successor).await?;
                let now: u64 = session.one("SELECT UNIX_TIMESTAMP()").await?;
                closed.map(|closed| age.saturating_sub(now.saturating_sub(closed)) as f64)
            }
        };
        Ok(Kept { bytes: Some(span.bytes), headroom_bytes, headroom_seconds })
    }

    /// Bytes from one place to a later one, as far as the last list of files tells.
    pub fn bytes_between(&self, from: &FileOffset, to: &FileOffset) -> Option<u64> {
        if from.file == to.file {
            return Some(to.offset.saturating_sub(from.offset));
        }
        let (_, files) = self.files.as_ref()?;
        span(files, from, to).map(|s| s.bytes)
    }

    async fn limits(&mut self, session: &mut Session) -> Result<Limits> {
        if let Some((at, limits)) = self.limits
            && at.elapsed() < EVERY
        {
            return Ok(limits);
        }
        let rows: Vec<(String, String)> = session
            .query(
                "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('binlog_expire_logs_seconds', \
                 'expire_logs_days', 'binlog_expire_logs_auto_purge', 'max_binlog_total_size', \
                 'binlog_space_limit')",
            )
            .await?;
        let limits = limits_of(&rows.into_iter().collect());
        self.limits = Some((Instant::now(), limits));
        Ok(limits)
    }

    /// When a file was begun, in seconds since 1970 by the server's clock.
    async fn begun(&mut self, endpoint: &Endpoint, file: &str) -> Result<Option<u64>> {
        if let Some((known, at)) = &self.begun
            && known == file
        {
            return Ok(Some(*at));
        }
        let found = first_event(endpoint, file).await?;
        self.begun = found.map(|at| (file.to_owned(), at));
        Ok(found)
    }
}

fn limits_of(settings: &HashMap<String, String>) -> Limits {
    let number = |name: &str| settings.get(name).and_then(|v| v.parse::<f64>().ok());
    let off = settings
        .get("binlog_expire_logs_auto_purge")
        .is_some_and(|v| v.eq_ignore_ascii_case("OFF") || v == "0");
    // MariaDB keeps the two in step; on MySQL 8.0 the days count where the seconds are 0.
    let seconds = number("binlog_expire_logs_seconds").filter(|s| *s > 0.0);
    let days = number("expire_logs_days").filter(|d| *d > 0.0).map(|d| d * 86_400.0);
    let total = number("max_binlog_total_size").or_else(|| number("binlog_space_limit"));
    Limits {
        age_seconds: seconds.or(days).filter(|_| !off).map(|s| s as u64),
        total_bytes: total.filter(|b| *b > 0.0).map(|b| b as u64),
    }
}

async fn files(session: &mut Session) -> Result<Vec<File>> {
    let rows: Vec<mysql_async::Row> = session.query("SHOW BINARY LOGS").await?;
    rows.iter()
        .map(|row| {
            let name = row.get_opt::<String, _>(0).and_then(std::result::Result::ok);
            let bytes = row.get_opt::<u64, _>(1).and_then(std::result::Result::ok);
            name.zip(bytes).map(|(name, bytes)| File { name, bytes }).ok_or_else(|| {
                Error::bug(format!("{}: the list of binlog files is unreadable", session.place))
            })
        })
        .collect()
}

#[derive(Debug, PartialEq, Eq)]
struct Span {
    /// From the place to the end.
    bytes: u64,
    /// With what stands before the place in its file.
    whole: u64,
    /// The file after the place's.
    successor: Option<String>,
}

/// From a place to a later one over the files between, of which the list may lack the youngest.
fn span(files: &[File], from: &FileOffset, to: &FileOffset) -> Option<Span> {
    let first = files.iter().position(|f| f.name == from.file)?;
    let last = files.iter().position(|f| f.name == to.file);
    if last.is_some_and(|last| last < first) {
        return None;
    }
    let inner = files.get(first..last.unwrap_or(files.len()))?;
    let whole = inner.iter().map(|f| f.bytes).sum::<u64>() + to.offset;
    let successor = files.get(first + 1).map(|f| &f.name).or((last.is_none()).then_some(&to.file));
    // Offsets have 32 bits in the log; beyond, the place in its file is not known.
    let before = match inner.first() {
        Some(file) => from.offset.min(file.bytes),
        None => from.offset.min(to.offset),
    };
    Some(Span { bytes: whole - before, whole, successor: successor.cloned() })
}

/// The time of a file's first event. The dump ends at the file's end if it is not ended before.
async fn first_event(endpoint: &Endpoint, file: &str) -> Result<Option<u64>> {
    let mut session = Session::open(endpoint).await?;
    session
        .run(
            "SET @master_binlog_checksum = @@global.binlog_checksum, \
             @source_binlog_checksum = @@global.binlog_checksum, @mariadb_slave_capability = 4",
        )
        .await?;
    // Not the flow's own replica id: a newcomer of the same id would end the flow's dump.
    let id = 0x2000_0000 | session.conn.id() & 0x0fff_ffff;
    let request = BinlogStreamRequest::new(id)
        .with_hostname(b"tidelock")
        .with_filename(file.as_bytes())
        .with_non_blocking();
    let place = session.place.clone();
    let mut stream = within(CONNECT, &place, session.conn.get_binlog_stream(request)).await?;
    for _ in 0..EVENTS_MAX {
        let next = tokio::time::timeout(CONNECT, stream.next()).await;
        let Ok(Some(Ok(event))) = next else { break };
        if event.header().event_type_raw() == kind::FORMAT_DESCRIPTION {
            return Ok(Some(u64::from(event.header().timestamp())).filter(|t| *t > 0));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(file: &str, offset: u64) -> FileOffset {
        FileOffset { file: file.into(), offset }
    }

    #[test]
    fn a_span_counts_every_byte_between_once() {
        let list: Vec<File> = [("b.1", 100), ("b.2", 200), ("b.3", 300)]
            .map(|(name, bytes)| File { name: name.into(), bytes })
            .into();
        let bytes = |from: &FileOffset, to: &FileOffset| {
            span(&list, from, to).map(|s| (s.bytes, s.whole, s.successor))
        };
        let next = |name: &str| Some(name.to_owned());
        assert_eq!(bytes(&at("b.1", 40), &at("b.3", 310)), Some((570, 610, next("b.2"))));
        assert_eq!(bytes(&at("b.3", 40), &at("b.3", 310)), Some((270, 310, None)));
        // Rotated since the list was made.
        assert_eq!(bytes(&at("b.2", 50), &at("b.4", 10)), Some((460, 510, next("b.3"))));
        assert_eq!(bytes(&at("b.3", 50), &at("b.4", 10)), Some((260, 310, next("b.4"))));
        // An offset that wrapped, a file that is gone, and a place behind its end.
        assert_eq!(
            bytes(&at("b.1", u64::from(u32::MAX)), &at("b.2", 10)),
            Some((10, 110, next("b.2")))
        );
        assert_eq!(bytes(&at("b.0", 4), &at("b.3", 310)), None);
        assert_eq!(bytes(&at("b.3", 4), &at("b.1", 4)), None);
    }

    #[test]
    fn limits_are_read_from_either_flavours_settings() {
        let of = |pairs: &[(&str, &str)]| {
            limits_of(&pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
        };
        let age = |seconds| Limits { age_seconds: Some(seconds), total_bytes: None };
        assert_eq!(of(&[("binlog_expire_logs_seconds", "2592000")]), age(2_592_000));
        assert_eq!(of(&[("expire_logs_days", "0.5")]), age(43_200));
        assert_eq!(
            of(&[("expire_logs_days", "10.000000"), ("binlog_expire_logs_seconds", "864000")]),
            age(864_000)
        );
        assert_eq!(
            of(&[("binlog_expire_logs_seconds", "0"), ("expire_logs_days", "0")]),
            Limits::default()
        );
        assert_eq!(
            of(&[("binlog_expire_logs_seconds", "60"), ("binlog_expire_logs_auto_purge", "OFF")]),
            Limits::default()
        );
        let sized = of(&[("max_binlog_total_size", "1000"), ("binlog_expire_logs_seconds", "0")]);
        assert_eq!(sized, Limits { age_seconds: None, total_bytes: Some(1000) });
    }
}
