//! What a server's error means for a flow.
//!
//! A server's `DETAIL`, `HINT` and `CONTEXT` are never taken over: they hold row values ("Key
//! (id)=(7) already exists"). Its `MESSAGE` is taken over only for the classes of errors whose text
//! is made of object names; for all others the text here is our own, chosen by SQLSTATE.

use postgres_protocol::message::backend::ErrorResponseBody;
use tidelock_core::routine::redact;
use tidelock_core::{Call, Code, Error, ErrorKind};
use tokio_postgres::error::DbError;

use fallible_iterator::FallibleIterator;

use crate::{net, upsert};

/// Where an error came up: the same SQLSTATE means different things in each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Administration: catalog, meta tables, slots.
    Admin,
    /// Reading the log.
    Source,
    /// Writing rows of a batch, or committing them.
    Write,
    /// Reading a piece of a copy: a missing right is about its table alone.
    Copy,
    /// Reading rows by key, or the keys of a track's query: what a view's or a track's own SQL runs into
    /// is about its mapping alone.
    Read,
}

/// The parts of a server's error that hold no row values, except that `message` may.
#[derive(Debug, Default, Clone)]
pub(crate) struct Fault {
    sqlstate: String,
    message: String,
    table: Option<String>,
    column: Option<String>,
    constraint: Option<String>,
    /// Whether it came up inside something that the statement led to: a trigger, a routine.
    inside: bool,
    /// Whether a person's own code raised it, in its own words.
    raised: bool,
}

impl From<&DbError> for Fault {
    fn from(e: &DbError) -> Self {
        Fault {
            sqlstate: e.code().code().to_owned(),
            message: e.message().to_owned(),
            table: e.table().map(|t| match e.schema() {
                Some(schema) => format!("{schema}.{t}"),
                None => t.to_owned(),
            }),
            column: e.column().map(str::to_owned),
            constraint: e.constraint().map(str::to_owned),
            inside: e.where_().is_some(),
            raised: e.routine().is_some_and(raises),
        }
    }
}

/// Whether a function of the server is the one by which a procedural language raises what a person wrote.
fn raises(function: &str) -> bool {
    function == "exec_stmt_raise" || function.starts_with("PLy") || function.starts_with("plperl")
}

impl Fault {
    /// Reads an error message of the wire.
    pub(crate) fn from_wire(body: &ErrorResponseBody) -> Fault {
        let mut fault = Fault::default();
        let mut fields = body.fields();
        while let Ok(Some(field)) = fields.next() {
            let text = || String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                b'C' => fault.sqlstate = text(),
                b'M' => fault.message = text(),
                b't' => fault.table = Some(text()),
                b'c' => fault.column = Some(text()),
                b'n' => fault.constraint = Some(text()),
                b'W' => fault.inside = true,
                b'R' => fault.raised = raises(&text()),
                _ => {}
            }
        }
        fault
    }

    /// The error it is, met while `doing` something.
    pub(crate) fn into_error(self, doing: &str, stage: Stage) -> Error {
        let (mut kind, mut code) = classify(&self.sqlstate, &self.message, stage, self.inside);
        // A person's own code may raise any SQLSTATE. Only that of a conflict with another transaction, or of a lock that it has,
        // asks for another try, and not for ever.
        if self.raised && stage == Stage::Write && kind != ErrorKind::Data {
            kind = match self.sqlstate.starts_with("40") || self.sqlstate == "55P03" {
                true => ErrorKind::Transient,
                false => ErrorKind::Data,
            };
            code = Code::Rejected;
        }
        let text = self.text(stage);
        let mut error = Error::new(kind, code, format!("{doing}: {text}"));
        let mut detail = vec![format!("SQLSTATE {}", self.sqlstate)];
        for (word, name) in
            [("table", &self.table), ("column", &self.column), ("constraint", &self.constraint)]
        {
            if let Some(name) = name {
                detail.push(format!("{word} {name}"));
            }
        }
        error = error.with_detail(detail.join(", "));
        let own = if stage == Stage::Read { reading_hint(&self.sqlstate) } else { None };
        let own = match self.sqlstate == "55P03" && !self.raised {
            true => Some(LOCK_HINT),
            false => own,
        };
        let inside = self.inside && stage == Stage::Write;
        match own.or_else(|| if inside { None } else { hint(&self.sqlstate, &self.message) }) {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }

    /// A text without row values.
    fn text(&self, stage: Stage) -> String {
        let reads = matches!(stage, Stage::Copy | Stage::Read);
        let code = self.sqlstate.as_str();
        let own = match code {
            "22012" if reads => "its query divides by zero",
            "21000" if reads => "a subquery in it gives more than one row",
            "P0001" if reads => "a function that it calls raised an error",
            code if reads && code.starts_with("22") => {
                "its query meets a value that one of its functions or casts does not take"
            }
            "23502" => "the column does not allow NULL",
            "23503" => "the row breaks a foreign key",
            "23505" => "another row already has this value in a unique index",
            "23514" => "the row breaks a check constraint or lies outside all partitions",
            "23P01" => "the row breaks an exclusion constraint",
            "22001" => "a text is longer than the column allows",
            "22003" => "a number is outside the column's range",
            "22007" | "22008" => "a date or time is not one the column can hold",
            "22021" => "a text holds a character the database's encoding does not have",
            "22P02" | "21000" if meets_spelling(code, &self.message) => {
                "another row has this key in another spelling, which the target column holds equal"
            }
            "22P02" => "a value is not valid for the column's type",
            "22P05" => "a text holds a character the client encoding does not have",
            "428C9" => "the column is computed by the server and cannot be written",
            "P0001" => "a trigger or procedure raised an error",
            _ if self.raised => "a trigger or procedure raised an error",
            "2D000" => "a routine may not end the transaction that it is called in",
            "55P03" => "a lock was not to be had in time",
            code => match code.get(..2) {
                Some(
                    "08" | "25" | "26" | "28" | "3D" | "3F" | "40" | "53" | "55" | "57" | "58",
                ) => {
                    return self.message.clone();
                }
                Some("0A" | "42") if code != "42601" => return self.message.clone(),
                Some("22") => "a value is not one the column can hold",
                Some("23") => "the row breaks a constraint",
                Some("XX") => "the server met an internal error",
                _ => "the server refused it",
            },
        };
        own.to_owned()
    }
}

fn classify(sqlstate: &str, message: &str, stage: Stage, inside: bool) -> (ErrorKind, Code) {
    use ErrorKind::{Continuity, Data, Setup, Transient};
    let write = stage == Stage::Write;
    let reads = matches!(stage, Stage::Copy | Stage::Read);
    match sqlstate {
        "57014" | "55P03" | "55006" | "57P05" | "25P03" => (Transient, Code::ServerBusy),
        // "cached plan must not change result type": the next session plans anew.
        "0A000" if message.contains("cached plan") => (Transient, Code::ServerBusy),
        "42501" if reads => (Data, Code::Privilege),
        // A trigger or routine of the target may do what it must not, which is the row's fault; ours is told outside.
        "42501" | "3D000" if write && inside => (Data, Code::Rejected),
        "42501" => (Setup, Code::Privilege),
        "42P01" | "3F000" if stage == Stage::Read => (Data, Code::TableGone),
        "42703" if stage == Stage::Read => (Data, Code::SchemaDrift),
        "42P01" | "42703" | "42883" | "3F000" if write => (Data, Code::SchemaDrift),
        // A routine wants to end our transaction, or to do what is not done inside one.
        "2D000" if write => (Data, Code::RoutineCommits),
        "25001" if write => (Data, Code::Rejected),
        "42P01" | "42703" | "3F000" | "3D000" => (Setup, Code::Catalog),
        "58P01" if stage == Stage::Source => (Continuity, Code::LogPurged),
        _ => match sqlstate.get(..2).unwrap_or("") {
            "08" => (Transient, Code::Unreachable),
            "28" => (Transient, Code::Authentication),
            "57" | "53" | "25" | "40" | "58" => (Transient, Code::ServerBusy),
            // The mapping's own key is met by ON CONFLICT, so this is another unique key.
            "23" if write && sqlstate == "23505" => (Data, Code::KeyConflict),
            "21" | "22" if write && meets_spelling(sqlstate, message) => (Data, Code::KeyConflict),
            "23" if write && sqlstate == "23503" => (Data, Code::ForeignKey),
            "23" if write => (Data, Code::Constraint),
            "22" if write => (Data, Code::NotRepresentable),
            "XX" if !write => (Transient, Code::ServerBusy),
            "21" | "22" | "2F" | "38" | "39" | "54" | "P0" if reads => (Data, Code::Rejected),
            _ if write || stage == Stage::Read => (Data, Code::Rejected),
            _ => (Setup, Code::ServerSetting),
        },
    }
}

/// Whether a row was refused because its key is there in another spelling, or twice in one statement in two of them.
fn meets_spelling(sqlstate: &str, message: &str) -> bool {
    match sqlstate {
        "22P02" => message.contains(upsert::GUARD),
        "21000" => message.starts_with("ON CONFLICT DO UPDATE"),
        _ => false,
    }
}

/// What to do where a view or a track's query cannot be read.
fn reading_hint(sqlstate: &str) -> Option<&'static str> {
    match sqlstate {
        "42501" => Some(
            "GRANT USAGE on the schema and SELECT on what is read to our role, to the view's owner as well",
        ),
        "42P01" | "3F000" => Some("bring it back under its name, or take it out of the mapping"),
        "42703" => Some("bring the column back, or take it out of the mapping"),
        "42883" => Some(
            "a function that the view calls must name its schemas, or have its own search_path              (ALTER FUNCTION … SET search_path); in a track's query, cast one side of the comparison",
        ),
        _ => None,
    }
}

/// A prepared transaction keeps its locks whoever goes, and no list of sessions has it.
const LOCK_HINT: &str = "pg_blocking_pids() tells who holds it; a transaction of pg_prepared_xacts does until COMMIT PREPARED or ROLLBACK PREPARED";

fn hint(sqlstate: &str, message: &str) -> Option<&'static str> {
    match sqlstate {
        "23503" => Some(tidelock_core::FOREIGN_KEY_HINT),
        "28000" if message.contains("channel binding") => Some(
            "what we reach shows another certificate than the server's own: connect to the server \
             itself, not through something that ends TLS on the way",
        ),
        "28000" if message.contains("client certificate") => {
            Some("name our certificate and key: tls = { cert_file = \"…\", key_file = \"…\" }")
        }
        "28000" | "28P01" => {
            Some("check user, password, cert_file and key_file, and pg_hba.conf of the server")
        }
        "53300" => Some("raise max_connections or the role's connection limit"),
        "53400" => Some("raise max_replication_slots and max_wal_senders"),
        "42501" => Some("`tidelock check` prints the GRANTs that are missing"),
        _ => None,
    }
}

/// What the server says against a text of a person's own, which holds no row values.
pub(crate) fn refusal(error: &tokio_postgres::Error, doing: &str) -> Error {
    let found = from_client(error, doing, Stage::Read);
    match error.as_db_error() {
        Some(db) if found.kind() == ErrorKind::Data => {
            let refused = Error::data(Code::Catalog, format!("{doing}: {}", db.message()));
            let refused = refused.with_detail(format!("SQLSTATE {}", db.code().code()));
            match found.hint() {
                Some(hint) => refused.with_hint(hint),
                None => refused,
            }
        }
        _ => found,
    }
}

/// The error that a client error is, met while `doing` something.
pub(crate) fn from_client(error: &tokio_postgres::Error, doing: &str, stage: Stage) -> Error {
    match error.as_db_error() {
        Some(db) => Fault::from(db).into_error(doing, stage),
        None if error.is_closed() => {
            Error::transient(Code::Unreachable, format!("{doing}: the connection was closed"))
        }
        // The texts of the client's own errors hold no values: they are fixed phrases, and the
        // cause is an I/O or encoding error.
        None => {
            let text = error.to_string();
            let cause = std::error::Error::source(error).map(|c| format!(": {c}"));
            let cause = cause.unwrap_or_default();
            match text.as_str() {
                "authentication error" | "invalid configuration" => {
                    Error::transient(Code::Authentication, format!("{doing}: cannot log in{cause}"))
                        .with_hint("check user and password of the system")
                }
                _ if text.starts_with("error serializing")
                    || text.starts_with("error deserializing")
                    || text.starts_with("expected ") =>
                {
                    Error::bug(format!("{doing}: {text}"))
                }
                _ if net::refuses_certificate(error) => {
                    Error::transient(Code::Tls, format!("{doing}: {text}{cause}"))
                        .with_hint(net::CERTIFICATE_HINT)
                }
                _ => Error::transient(Code::Unreachable, format!("{doing}: {text}{cause}")),
            }
        }
    }
}

/// The error of a call of a routine: as [`from_client`] says, and with what the routine raised, without values.
pub(crate) fn from_call(error: &tokio_postgres::Error, doing: &str, call: &Call) -> Error {
    let told = from_client(error, doing, Stage::Write);
    let Some(db) = error.as_db_error().filter(|_| told.kind() == ErrorKind::Data) else {
        return told;
    };
    // What the server itself refuses names its object, and its message has been told already.
    if db.table().is_some() || db.column().is_some() || db.constraint().is_some() {
        return told;
    }
    let raised = redact(db.message(), call);
    told.with_detail(format!("SQLSTATE {}: {raised}", db.code().code()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(sqlstate: &str, message: &str, stage: Stage) -> Error {
        Fault { sqlstate: sqlstate.into(), message: message.into(), ..Fault::default() }
            .into_error("test", stage)
    }

    #[test]
    fn texts_that_may_hold_values_are_replaced() {
        for code in
            ["22P02", "22007", "22003", "23505", "P0001", "42601", "22P03", "XX000", "99999"]
        {
            let text = format!("{:?}", error(code, "geheim", Stage::Write));
            assert!(!text.contains("geheim"), "{code}: {text}");
        }
        assert!(
            error("42501", "permission denied for table t", Stage::Write)
                .message()
                .contains("table t")
        );
    }

    #[test]
    fn what_a_routine_runs_into_is_about_its_row() {
        let fault = |sqlstate: &str, inside: bool, raised: bool| {
            let message = "permission denied for table audit".to_owned();
            let fault =
                Fault { sqlstate: sqlstate.into(), message, inside, raised, ..Fault::default() };
            fault.into_error("test", Stage::Write)
        };
        let ours = fault("42501", false, false);
        assert_eq!((ours.kind(), ours.code()), (ErrorKind::Setup, Code::Privilege));
        let theirs = fault("42501", true, false);
        assert_eq!((theirs.kind(), theirs.code()), (ErrorKind::Data, Code::Rejected));
        assert!(theirs.message().contains("audit") && theirs.hint().is_none(), "{theirs}");
        let raised = fault("42501", true, true);
        assert_eq!(raised.kind(), ErrorKind::Data);
        assert!(!raised.message().contains("audit"), "its own words may hold values: {raised}");
        assert_eq!(error("42501", "", Stage::Copy).kind(), ErrorKind::Data);
        let locked = |raised| fault("55P03", true, raised);
        assert_eq!(
            (locked(false).code(), locked(false).hint()),
            (Code::ServerBusy, Some(LOCK_HINT))
        );
        assert_eq!((locked(true).code(), locked(true).hint()), (Code::Rejected, None));
    }

    #[test]
    fn each_class_has_its_kind() {
        let kind = |code, stage| error(code, "", stage).kind();
        assert_eq!(kind("40P01", Stage::Write), ErrorKind::Transient);
        assert_eq!(kind("25006", Stage::Write), ErrorKind::Transient);
        assert_eq!(kind("57P01", Stage::Source), ErrorKind::Transient);
        assert_eq!(kind("42501", Stage::Write), ErrorKind::Setup);
        assert_eq!(kind("23505", Stage::Write), ErrorKind::Data);
        assert_eq!(error("42703", "", Stage::Write).code(), Code::SchemaDrift);
        assert_eq!(error("22003", "", Stage::Write).code(), Code::NotRepresentable);
        assert_eq!(error("28P01", "", Stage::Admin).code(), Code::Authentication);
        assert_eq!(error("58P01", "", Stage::Source).kind(), ErrorKind::Continuity);
    }
}
