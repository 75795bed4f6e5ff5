//! From the driver's errors to the engine's kinds.
//!
//! A server's message often carries a row's value (`Duplicate entry 'x' for key 'k'`), so messages
//! are never passed on whole: the number stays, and of the text only identifiers that the server
//! puts at known places.

use mysql_async::{DriverError, Error as E, IoError, ServerError};
use tidelock_core::routine::redact;
use tidelock_core::{Call, Code, Error, ErrorKind, TableName};

use crate::upsert;

/// Maps a driver error; `place` says what was being done where.
pub(crate) fn map(place: &str, error: mysql_async::Error) -> Error {
    match error {
        E::Server(server) => map_server(place, &server),
        E::Io(IoError::Tls(_)) => {
            Error::setup(Code::Tls, format!("{place}: TLS could not be agreed on with the server"))
                .with_hint("check tls.mode, tls.ca_file and the name in the server's certificate")
        }
        E::Io(IoError::Io(io)) => {
            if io.get_ref().is_some_and(|e| e.to_string().to_ascii_lowercase().contains("cert")) {
                return Error::setup(
                    Code::Tls,
                    format!("{place}: the server's certificate is not trusted"),
                )
                .with_detail(io.to_string())
                .with_hint("check tls.ca_file and the name in the server's certificate");
            }
            Error::transient(Code::Unreachable, format!("{place}: connection failed"))
                .with_detail(io.to_string())
        }
        E::Driver(DriverError::ConnectionClosed | DriverError::PoolDisconnected) => {
            Error::transient(Code::Unreachable, format!("{place}: connection closed"))
        }
        E::Driver(
            DriverError::UnknownAuthPlugin { .. }
            | DriverError::CleartextPluginDisabled
            | DriverError::MysqlOldPasswordDisabled,
        ) => unknown_plugin(place),
        E::Driver(DriverError::NoClientSslFlagFromServer) => {
            Error::setup(Code::Tls, format!("{place}: the server does not offer TLS"))
                .with_hint("give the server a certificate, or set tls = { mode = \"disable\" }")
        }
        E::Driver(DriverError::PacketTooLarge) => Error::data(
            Code::NotRepresentable,
            format!("{place}: a row is larger than the server's max_allowed_packet"),
        )
        .with_hint("raise max_allowed_packet on the server"),
        E::Driver(DriverError::FromValue { .. } | DriverError::FromRow { .. }) => {
            Error::bug(format!("{place}: the server answered with an unexpected type"))
        }
        E::Driver(_) => {
            Error::transient(Code::Unreachable, format!("{place}: the protocol was broken off"))
        }
        E::Other(_) => Error::transient(Code::Unreachable, format!("{place}: connection failed")),
        E::Url(_) => Error::new(
            ErrorKind::Config,
            Code::Config,
            format!("{place}: the connection settings are not valid"),
        ),
    }
}

/// The error of writing rows to a table. A right, a database or a setting that is missing there, and that is not ours for this table, is missing
/// for what a trigger does, and so about the row.
pub(crate) fn of_rows(error: Error, table: &TableName) -> Error {
    let settles = matches!(error.code(), Code::Privilege | Code::Catalog | Code::ServerSetting);
    let speaks = |name: &str| {
        let said = error.message();
        said.contains(&format!("`{name}`")) || said.contains(&format!("'{name}'"))
    };
    if error.kind() != ErrorKind::Setup
        || !settles
        || speaks(&table.name)
        || error.message().ends_with(&format!("database {}", table.schema))
    {
        return error;
    }
    let said = error.message().to_owned();
    let refused =
        Error::data(Code::Rejected, format!("a trigger was refused what it does: {said}"));
    refused.with_hint("mend the trigger or the rights of its definer")
}

/// Whether the server says that it has ended a deadlock.
pub(crate) fn is_deadlock(error: &Error) -> bool {
    error.code() == Code::ServerBusy && error.detail() == Some("error 1213")
}

/// The server's own words about a lock that was not to be had.
const LOCK_WAIT: &str = "Lock wait timeout exceeded; try restarting transaction";
const OTHER_WORDS: &str = "error 1205, in other words than the server's";

/// Whether a lock was waited for too long.
pub(crate) fn is_lock_wait(error: &Error) -> bool {
    let detail = error.detail().unwrap_or_default();
    error.code() == Code::ServerBusy && detail.starts_with("error 1205")
}

/// Whether somebody says in place of the server that a lock was waited for too long.
pub(crate) fn is_told_lock_wait(error: &Error) -> bool {
    error.code() == Code::ServerBusy && error.detail() == Some(OTHER_WORDS)
}

/// The error of a trigger or procedure that raises the number of what the server has not met. It asks for another try.
pub(crate) fn raised(place: &str, what: &str, number: u16) -> Error {
    Error::new(
        ErrorKind::Transient,
        Code::Rejected,
        format!("{place}: a trigger or procedure raised {what} that was none"),
    )
    .with_detail(format!("error {number}"))
    .with_hint("let it raise another number, and see why it refuses the row")
}

/// The error of a call of a procedure: as [`map`] says, and with what the procedure raised, without values.
pub(crate) fn map_call(place: &str, error: mysql_async::Error, call: &Call) -> Error {
    let E::Server(server) = &error else { return map(place, error) };
    let (code, state, message) = (server.code, server.state.clone(), server.message.clone());
    if matches!(code, 1305 | 1318) {
        let error = Error::data(
            Code::SchemaDrift,
            format!("{place}: the procedure is gone or takes other parameters"),
        );
        return error.with_detail(format!("error {code}"));
    }
    let own = [call.routine.name.schema.as_str(), call.routine.name.name.as_str()];
    let told = match code {
        // Our own right to call it is missing: looked for again, like any setting.
        1370 if own.iter().all(|name| message.contains(name)) => map(place, error),
        // What it runs into itself is about the row.
        1142 | 1143 | 1227 | 1370 | 1410 | 1044 | 1049 | 1064 | 1193 | 1231 | 1235 => {
            Error::data(Code::Rejected, format!("{place}: the procedure was refused what it does"))
        }
        _ => map(place, error),
    };
    // Where the server itself refused something, its object has been named.
    let raised = told.code() == Code::Rejected || told.message().contains(" ? ");
    match told.kind() == ErrorKind::Data && raised {
        true => {
            told.with_detail(format!("error {code}, SQLSTATE {state}: {}", redact(&message, call)))
        }
        false => told,
    }
}

/// Whether the server says that this savepoint is not there.
pub(crate) fn lost_savepoint(error: &mysql_async::Error, savepoint: &str) -> bool {
    matches!(error, E::Server(server)
        if server.code == 1305
            && server.message.contains("SAVEPOINT")
            && server.message.contains(savepoint))
}

/// The server asks for an authentication plugin that is not accepted.
pub(crate) fn unknown_plugin(place: &str) -> Error {
    Error::setup(
        Code::Authentication,
        format!("{place}: the server asks for an authentication plugin that is not accepted"),
    )
    .with_hint("use caching_sha2_password, ed25519 or mysql_native_password for this user")
}

/// Maps an error of reading rows by key or of a track's query: what a view's or a track's own SQL runs into is about
/// its mapping alone.
pub(crate) fn map_reading(place: &str, error: mysql_async::Error) -> Error {
    let mysql_async::Error::Server(server) = &error else { return map(place, error) };
    let make = |code, what: &str| {
        Error::data(code, format!("{place}: {what}")).with_detail(format!("error {}", server.code))
    };
    let quoted = |before: &str| between(&server.message, before, "'").unwrap_or("?");
    match server.code {
        1044 | 1142 | 1143 | 1370 | 1345 => make(
            Code::Privilege,
            &match server.message.split_once(" for ") {
                Some((_, what)) if server.code != 1044 => format!("a right is missing for {what}"),
                _ => "a right is missing".to_owned(),
            },
        )
        .with_hint(
            "GRANT SELECT (EXECUTE on a function) on what is read to our user, and to the view's definer",
        ),
        1356 => make(
            Code::SchemaDrift,
            "a view names a table, column or function that is gone, or its definer lacks a right",
        )
        .with_hint("SELECT from the view as our user: mend what the server says, or make the view anew"),
        1449 => make(Code::SchemaDrift, "the user who defined the view is gone")
            .with_hint("make the view anew, with a definer that is there"),
        1049 | 1146 => make(
            Code::TableGone,
            &format!("table {} does not exist", quoted("Table '")),
        )
        .with_hint("bring it back under its name, or take it out of the mapping"),
        1054 => make(
            Code::SchemaDrift,
            &format!("there is no column {}", quoted("Unknown column '")),
        )
        .with_hint("bring the column back, or take it out of the mapping"),
        1242 => make(Code::Rejected, "a subquery in it gives more than one row"),
        1267 | 1270 | 1271 => make(Code::Rejected, "it compares texts of different collations")
            .with_hint("write COLLATE behind one side of the comparison"),
        1305 => make(Code::Rejected, "a function that it calls does not exist"),
        1644 => make(Code::Rejected, "a function that it calls raised an error"),
        1264 | 1265 | 1292 | 1365 | 1366 | 1406 | 1411 | 1690 | 3140 | 3141 | 4038 => make(
            Code::Rejected,
            "its query meets a value that one of its functions or casts does not take",
        ),
        1064 | 1792 | 1060 | 1222 | 1241 | 1248 | 1235 => make(Code::Rejected, "the server refuses the query"),
        _ => map(place, error),
    }
}

/// What the server says against a text of a person's own, which holds no row values.
pub(crate) fn map_refusal(place: &str, error: mysql_async::Error) -> Error {
    let said = match &error {
        mysql_async::Error::Server(server) => Some((server.code, server.message.clone())),
        _ => None,
    };
    let found = map_reading(place, error);
    match (said, found.kind()) {
        (Some((code, message)), ErrorKind::Data) => {
            let refused = Error::data(Code::Catalog, format!("{place}: {message}"));
            refused.with_detail(format!("error {code}"))
        }
        _ => found,
    }
}

fn map_server(place: &str, error: &ServerError) -> Error {
    let code = error.code;
    let make = |kind, tl, what: &str| {
        Error::new(kind, tl, format!("{place}: {what}")).with_detail(format!("error {code}"))
    };
    use Code as C;
    use ErrorKind as K;
    match code {
        1040 | 1203 | 1226 => {
            make(K::Transient, C::ServerBusy, "the server has no connection left")
        }
        1205 => {
            let waited = make(K::Transient, C::ServerBusy, "waited too long for a row lock");
            match error.message == LOCK_WAIT {
                true => waited,
                false => waited.with_detail(OTHER_WORDS),
            }
        }
        1213 => make(K::Transient, C::ServerBusy, "deadlock with another transaction"),
        1615 => make(K::Transient, C::ServerBusy, "a table was changed while it was being read"),
        // A snapshot that is older than the table's last ALTER: the next one is not.
        1412 => make(K::Transient, C::ServerBusy, "a table was altered while it was read"),
        1053 | 1317 | 1927 | 2006 | 2013 | 4031 | 1152 | 1158..=1161 | 1969 | 3024 => {
            make(K::Transient, C::ServerBusy, "the server ended the session or statement")
        }
        1021 | 1041 | 1114 | 1030 | 1026 => {
            make(K::Transient, C::ServerBusy, "the server is short of disk or memory")
        }
        1290 | 1836 | 3100 => {
            make(K::Transient, C::ServerBusy, "the server is read-only at the moment")
        }
        1045 | 1698 => make(K::Setup, C::Authentication, "the server refused name or password"),
        1130 => make(K::Setup, C::Authentication, "the server refuses this host"),
        1044 => {
            let database = between(&error.message, "to database '", "'").unwrap_or("?");
            make(
                K::Setup,
                C::Privilege,
                &format!("the user may not use or create database {database}"),
            )
            .with_hint("`tidelock check` prints the statements that a DBA must run")
        }
        1142 | 1143 | 1227 | 1370 | 1410 => {
            let right = between(&error.message, "(at least one of) the ", " privilege")
                .or_else(|| error.message.split(" command denied").next())
                .filter(|r| r.bytes().all(|b| b.is_ascii_uppercase() || b" ,_".contains(&b)))
                .map_or("a right".to_owned(), |r| format!("the right {r}"));
            let on = error.message.rsplit_once(" for ").map(|(_, on)| on);
            let on = on.filter(|on| on.starts_with("table ") || on.starts_with("column "));
            let on = on.map_or(String::new(), |on| format!(" for {on}"));
            make(K::Setup, C::Privilege, &format!("{right} is missing{on}"))
                .with_hint("`tidelock check` prints the statements that a DBA must run")
        }
        1049 => make(K::Setup, C::Catalog, "the database does not exist"),
        1048 => {
            let column = between(&error.message, "Column '", "'").unwrap_or("?");
            make(K::Data, C::Constraint, &format!("column {column} cannot be null"))
        }
        1062 | 1586 | 1169 => {
            let key = error
                .message
                .rsplit_once("for key '")
                .and_then(|(_, k)| k.strip_suffix('\''))
                .filter(|k| !k.is_empty() && k.chars().count() <= 130)
                .unwrap_or("?");
            make(K::Data, C::KeyConflict, &format!("a row with the same unique key {key} exists"))
        }
        1690 if error.message.contains(upsert::GUARD) => make(
            K::Data,
            C::KeyConflict,
            "a row hit another row by a unique key other than the mapping's, \
             or by a key that only the collation holds equal",
        )
        .with_hint("find the row with the same unique value at the target and change or remove it"),
        1216 | 1217 | 1451 | 1452 => {
            let name = between(&error.message, "CONSTRAINT `", "`").unwrap_or("?");
            make(K::Data, C::ForeignKey, &format!("foreign key {name} refuses the row"))
                .with_hint(tidelock_core::FOREIGN_KEY_HINT)
        }
        3819 | 4025 => {
            let name = between(&error.message, "CONSTRAINT `", "`")
                .or_else(|| between(&error.message, "constraint '", "'"))
                .unwrap_or("?");
            make(K::Data, C::Constraint, &format!("check constraint {name} refuses the row"))
        }
        1264 | 1265 | 1292 | 1364 | 1366 | 1406 | 1690 | 3140 | 1411 | 1153 | 1301 => {
            let column = between(&error.message, "for column '", "'")
                .or_else(|| between(&error.message, "for column `", " at row"))
                .or_else(|| between(&error.message, "Field '", "'"))
                .map(|c| c.rsplit('.').next().unwrap_or(c).trim_matches('`'))
                .filter(|c| c.chars().count() <= 64)
                .unwrap_or("?");
            make(K::Data, C::NotRepresentable, &format!("column {column} cannot hold the value"))
        }
        1054 | 1146 | 1136 | 1906 | 3105 => {
            make(K::Data, C::SchemaDrift, "a mapped table or column is gone or was changed")
        }
        1644 => make(K::Data, C::Rejected, "a trigger or procedure refused the row"),
        1047 => make(K::Transient, C::ServerBusy, "the node is not ready (no cluster quorum)"),
        1180 | 1295 => make(
            K::Setup,
            C::ServerSetting,
            "the server cannot commit a transaction of this size (see wsrep_max_ws_size)",
        ),
        1236 => map_dump(place, &error.message),
        1231 | 1193 | 1064 | 1235 => make(
            K::Setup,
            C::ServerSetting,
            "the server does not know a statement or setting that is needed",
        )
        .with_hint("MariaDB 10.5 or MySQL 8.0 is the oldest version supported"),
        _ => make(K::Data, C::Rejected, "the server refused the statement"),
    }
}

/// Error 1236: why the server will not send its binlog. Its text holds file names and GTIDs only.
fn map_dump(place: &str, message: &str) -> Error {
    let text = message.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|w| text.contains(w));
    let hint = "run `tidelock resync` for this flow: new position, compare and patch";
    let error = if has(&["purged", "could not find first log", "could not find gtid state"]) {
        Error::continuity(
            Code::LogPurged,
            format!("{place}: the binary log that is still needed was removed"),
        )
    } else if has(&["not in the master's binlog", "more gtids", "diverged", "out-of-order"]) {
        Error::continuity(
            Code::GtidDiverged,
            format!("{place}: the server does not have the transactions already read"),
        )
    } else if has(&[
        "same server_uuid",
        "same server_id",
        "same server uuid",
        "slave with the same",
    ]) {
        return Error::transient(
            Code::ServerBusy,
            format!("{place}: another replica with the same server id took our place"),
        );
    } else {
        Error::continuity(
            Code::DamagedEvent,
            format!("{place}: the server cannot read its binary log on"),
        )
    };
    error.with_detail(format!("error 1236: {message}")).with_hint(hint)
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let start = text.find(before)? + before.len();
    let rest = text.get(start..)?;
    rest.get(..rest.find(after)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(code: u16, message: &str) -> Error {
        let error = ServerError { code, message: message.into(), state: "HY000".into() };
        map("crm", mysql_async::Error::Server(error))
    }

    #[test]
    fn row_values_never_reach_a_message() {
        for (code, text) in [
            (1062, "Duplicate entry 'CANARY' for key 'PRIMARY'"),
            (1062, "Duplicate entry 'CANARY' for key 'x' for key 't.u'"),
            (1366, "Incorrect integer value: 'CANARY' for column `a`.`b`.`c` at row 1"),
            (1292, "Incorrect date value: 'CANARY' for column 'd' at row 1"),
            (1644, "CANARY"),
            (1105, "CANARY"),
            (1265, "Data truncated for column 'c' at row 1"),
        ] {
            let error = server(code, text);
            assert!(!format!("{error} {error:?}").contains("CANARY"), "{error:?}");
            assert_eq!(error.kind(), ErrorKind::Data);
        }
        assert!(
            server(1366, "Incorrect value: 'x' for column `a`.`b`.`c` at row 1")
                .message()
                .contains("column c")
        );
    }

    #[test]
    fn a_missing_right_names_what_it_is_about() {
        let text = "Access denied for user 'poor'@'%' to database 'tidelock'";
        let error = server(1044, text);
        assert_eq!((error.kind(), error.code()), (ErrorKind::Setup, Code::Privilege));
        assert!(error.message().ends_with("may not use or create database tidelock"), "{error}");
        assert!(error.hint().is_some_and(|h| h.contains("`tidelock check`")), "{error}");
        let text = "INSERT command denied to user 'poor'@'h' for table `crm`.`t`";
        let said = "the right INSERT is missing for table `crm`.`t`";
        assert!(server(1142, text).message().ends_with(said));
    }

    #[test]
    fn what_a_procedure_runs_into_is_about_its_row() {
        let routine = std::sync::Arc::new(tidelock_core::CallTarget {
            id: 1,
            name: tidelock_core::TableName::new("crm", "upsert_account"),
            kind: tidelock_core::RoutineKind::Procedure,
            parameters: Vec::new(),
            body: None,
        });
        let call = Call { mapping: "m".into(), routine, arguments: Box::default() };
        let told = |code: u16, message: &str| {
            let error = ServerError { code, message: message.into(), state: "42000".into() };
            map_call("crm", mysql_async::Error::Server(error), &call)
        };
        let inner = told(1142, "INSERT command denied to user 'x'@'%' for table `crm`.`audit`");
        assert_eq!((inner.kind(), inner.code()), (ErrorKind::Data, Code::Rejected), "{inner}");
        for code in [1143, 1227, 1044, 1049, 1064] {
            assert_eq!(told(code, "x").kind(), ErrorKind::Data, "{code}");
        }
        let other = "execute command denied to user 'x'@'%' for routine 'crm.audit_it'";
        assert_eq!(told(1370, other).kind(), ErrorKind::Data);
        let own = "execute command denied to user 'x'@'%' for routine 'crm.upsert_account'";
        assert_eq!(
            (told(1370, own).kind(), told(1370, own).code()),
            (ErrorKind::Setup, Code::Privilege)
        );
    }

    #[test]
    fn dump_errors_are_told_apart() {
        let code = |t: &str| server(1236, t).code();
        assert_eq!(code("Could not find first log file name in binary log index"), Code::LogPurged);
        assert_eq!(
            code(
                "Error: connecting slave requested to start from GTID 0-1-9, which is not in the master's binlog"
            ),
            Code::GtidDiverged
        );
    }
}
