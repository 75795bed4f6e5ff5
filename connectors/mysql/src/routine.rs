//! Procedures, and what in their text and settings a target transaction does not bear.

use std::collections::HashMap;

use mysql_async::Row;
use tidelock_core::{Finding, Parameter, ParameterMode, Result, Routine, RoutineKind, TableName};

use crate::catalog::{Facts, cell};
use crate::charset::Charset;
use crate::session::{Session, literal, quote};

/// The procedures of these databases that our user may see. Their texts may be seen by their definers and by whoever may
/// read all of the server's routines.
pub(crate) async fn read(session: &mut Session, schemas: &[String]) -> Result<Vec<Routine>> {
    if schemas.is_empty() {
        return Ok(Vec::new());
    }
    let list = schemas.iter().map(|s| literal(s)).collect::<Vec<_>>().join(",");
    let rows: Vec<(String, String, Option<String>, String)> = session
        .query(&format!(
            "SELECT routine_schema, routine_name, routine_definition, sql_mode \
             FROM information_schema.routines \
             WHERE routine_schema IN ({list}) AND routine_type = 'PROCEDURE' ORDER BY 1, 2"
        ))
        .await?;
    let mut parameters = parameters(session, &list).await?;
    let mut found = Vec::with_capacity(rows.len());
    for (schema, name, body, mode) in rows {
        let name = TableName::new(schema, name);
        let parameters = parameters.remove(&name).unwrap_or_default();
        let refusals = parameters.iter().filter(|p| p.mode != ParameterMode::In);
        let refusals = refusals.map(|p| format!("its parameter {} is not IN", p.name)).collect();
        let body = body.filter(|body| !body.is_empty());
        let hazards = hazards(&name, body.as_deref(), &mode);
        let kind = RoutineKind::Procedure;
        found.push(Routine { name, kind, parameters, body, refusals, hazards });
    }
    Ok(found)
}

async fn parameters(
    session: &mut Session,
    list: &str,
) -> Result<HashMap<TableName, Vec<Parameter>>> {
    let rows: Vec<Row> = session
        .query(&format!(
            "SELECT specific_schema, specific_name, parameter_mode, parameter_name, data_type, \
             dtd_identifier, character_maximum_length, character_octet_length, numeric_precision, \
             numeric_scale, datetime_precision, character_set_name \
             FROM information_schema.parameters \
             WHERE specific_schema IN ({list}) AND routine_type = 'PROCEDURE' AND ordinal_position > 0 \
             ORDER BY 1, 2, ordinal_position"
        ))
        .await?;
    let mut charsets: HashMap<String, Charset> = HashMap::new();
    let mut found: HashMap<TableName, Vec<Parameter>> = HashMap::new();
    for row in &rows {
        let charset: Option<String> = cell(row, 11)?;
        if let Some(name) = &charset
            && !charsets.contains_key(name)
        {
            charsets.insert(name.clone(), Charset::load(session, name).await?);
        }
        let facts = Facts {
            data_type: cell::<String>(row, 4)?.to_ascii_lowercase(),
            column_type: cell(row, 5)?,
            chars: cell(row, 6)?,
            octets: cell(row, 7)?,
            precision: cell(row, 8)?,
            scale: cell(row, 9)?,
            fsp: cell(row, 10)?,
            charset: charset.and_then(|name| charsets.get(&name).cloned()),
            json: false,
        };
        let mode = match cell::<Option<String>>(row, 2)?.as_deref() {
            Some("OUT") => ParameterMode::Out,
            Some("INOUT") => ParameterMode::InOut,
            _ => ParameterMode::In,
        };
        let name = TableName::new(cell::<String>(row, 0)?, cell::<String>(row, 1)?);
        found.entry(name).or_default().push(Parameter {
            name: cell::<Option<String>>(row, 3)?.unwrap_or_default(),
            data_type: facts.data_type(session.flavour),
            native: facts.column_type,
            mode,
            has_default: false,
        });
    }
    Ok(found)
}

/// What stands in the way of calling a procedure. `callable` is whether our grants cover it.
pub(crate) fn target(
    found: &[Routine],
    name: &TableName,
    callable: bool,
    user: &str,
    account: &str,
    findings: &mut Vec<Finding>,
) {
    let grant = format!(
        "GRANT EXECUTE ON PROCEDURE {}.{} TO {account}",
        quote(&name.schema),
        quote(&name.name)
    );
    // The server takes names of procedures in any case.
    let same = |r: &&Routine| {
        r.name.schema == name.schema && r.name.name.to_lowercase() == name.name.to_lowercase()
    };
    let Some(routine) = found.iter().find(same) else {
        let finding =
            Finding::problem(format!("procedure {name} does not exist or may not be seen"));
        findings.push(finding.hint("if it exists:").sql(grant));
        return;
    };
    if !callable {
        findings.push(Finding::problem(format!("user {user} may not call {name}")).sql(grant));
    }
    for refusal in &routine.refusals {
        findings.push(Finding::problem(format!("procedure {name}: {refusal}")));
    }
    if routine.body.is_none() {
        findings.push(
            Finding::warning(format!("the text of procedure {name} may not be read")).hint(
                "so it was not looked through for COMMIT and DDL, which would stop the mapping when it is called",
            ),
        );
    }
    findings.extend(routine.hazards.iter().cloned());
}

fn hazards(name: &TableName, body: Option<&str>, mode: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    let escapes = !mode.contains("NO_BACKSLASH_ESCAPES");
    let words = body.map(|body| words(body, escapes)).unwrap_or_default();
    let mut ends = Vec::new();
    let mut dynamic = false;
    for statement in statements(&words) {
        if let Some(what) = ends_transaction(statement)
            && !ends.contains(&what)
        {
            ends.push(what);
        }
        dynamic |= matches!(statement, [first, ..] if first == "execute");
    }
    for what in ends {
        found.push(
            Finding::problem(format!("procedure {name} runs {what}")).hint(
                "that commits the flow's transaction half-way: the mapping would stop at the first call (TL0211)",
            ),
        );
    }
    if dynamic {
        found.push(
            Finding::warning(format!("procedure {name} runs statements that it puts together"))
                .hint("they cannot be looked through here: none of them may commit"),
        );
    }
    if !mode.contains("STRICT_") {
        found.push(
            Finding::warning(format!("procedure {name} was made without a strict sql_mode")).hint(
                "inside it, what a column cannot hold is cut: make it anew in a session with \
                 sql_mode = 'STRICT_ALL_TABLES'",
            ),
        );
    }
    found
}

/// Each statement's words from its first one on, as far as a body's words tell where statements begin.
fn statements(words: &[String]) -> impl Iterator<Item = &[String]> {
    let mut handler = false;
    (0..words.len()).filter_map(move |i| {
        let before = i.checked_sub(1).and_then(|i| words.get(i)).map(String::as_str);
        let begins = matches!(
            before,
            None | Some(";" | ":" | "begin" | "then" | "else" | "loop" | "do" | "repeat")
        );
        match words.get(i).map(String::as_str) {
            Some("handler") => handler = true,
            Some(";" | "begin") => handler = false,
            _ => {}
        }
        // The statement of a handler follows its conditions.
        let begins = begins || handler && !matches!(before, Some("," | "for" | "."));
        words.get(i..).filter(|_| begins)
    })
}

/// How a statement ends a transaction, if it does.
fn ends_transaction(statement: &[String]) -> Option<String> {
    let word = |i: usize| statement.get(i).map_or("", String::as_str);
    let said = |words: usize| {
        let some: Vec<String> = statement.iter().take(words).map(|w| w.to_uppercase()).collect();
        Some(some.join(" "))
    };
    match (word(0), word(1)) {
        ("commit", _) => said(1),
        ("rollback", "to") => None,
        ("rollback", "work") if word(2) == "to" => None,
        ("rollback", _) => said(1),
        ("start", "transaction") => said(2),
        ("create" | "drop", "temporary") | ("drop", "prepare") => None,
        ("create" | "drop" | "alter" | "rename" | "lock" | "unlock" | "flush" | "xa", _) => said(2),
        ("grant" | "revoke" | "truncate", _) => said(1),
        ("install" | "uninstall" | "analyze" | "optimize" | "repair" | "check", _) => said(2),
        ("cache" | "load", "index") | ("set", "password") => said(2),
        ("set", _) => {
            let end = statement.iter().position(|w| w == ";").unwrap_or(statement.len());
            let sets = statement.iter().take(end).any(|w| w == "autocommit");
            sets.then(|| "SET AUTOCOMMIT".to_owned())
        }
        _ => None,
    }
}

/// The words and marks of a body, in lower case, without comments, texts and names in quotes. What stands in executable
/// comments (`/*!50100 … */`, `/*M! … */`) counts.
fn words(body: &str, escapes: bool) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = body;
    while let Some(c) = rest.chars().next() {
        let line = |rest: &str| rest.find('\n').unwrap_or(rest.len());
        let end = match c {
            '#' => line(rest),
            '-' if rest.starts_with("--") => line(rest),
            '/' if rest.starts_with("/*!") || rest.starts_with("/*M!") => {
                let head = rest.find('!').map_or(0, |at| at + 1);
                let digits = rest.get(head..).unwrap_or("");
                let version = digits.bytes().take_while(u8::is_ascii_digit).count();
                head + version
            }
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |at| at + 2),
            // The end of an executable one.
            '*' if rest.starts_with("*/") => 2,
            '\'' | '"' | '`' => {
                words.push(String::new());
                quoted(rest, c, escapes && c != '`')
            }
            c if c.is_alphanumeric() || c == '_' => {
                let part_of = |x: char| x.is_alphanumeric() || x == '_' || x == '$';
                let end = rest.find(|x| !part_of(x)).unwrap_or(rest.len());
                words.push(rest.get(..end).unwrap_or("").to_lowercase());
                end
            }
            c => {
                if !c.is_whitespace() {
                    words.push(c.to_string());
                }
                c.len_utf8()
            }
        };
        rest = rest.get(end.max(1)..).unwrap_or("");
    }
    words
}

/// The length of a text or name in quotes; a doubled quote reads as two of them.
fn quoted(text: &str, quote: char, escapes: bool) -> usize {
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' if escapes => drop(chars.next()),
            c if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(body: &str) -> Vec<String> {
        let words = words(body, true);
        statements(&words).filter_map(ends_transaction).collect()
    }

    #[test]
    fn only_statements_end_a_transaction() {
        for (body, found) in [
            ("COMMIT", vec!["COMMIT"]),
            ("BEGIN COMMIT; END", vec!["COMMIT"]),
            ("x: BEGIN y: LOOP COMMIT AND CHAIN; END LOOP; END", vec!["COMMIT"]),
            (
                "BEGIN IF a THEN ROLLBACK; ELSE START TRANSACTION; END IF; END",
                vec!["ROLLBACK", "START TRANSACTION"],
            ),
            (
                "BEGIN DECLARE EXIT HANDLER FOR SQLEXCEPTION, NOT FOUND ROLLBACK; SELECT 1; END",
                vec!["ROLLBACK"],
            ),
            (
                "BEGIN DECLARE EXIT HANDLER FOR SQLSTATE '23000' BEGIN COMMIT; END; END",
                vec!["COMMIT"],
            ),
            ("BEGIN /*!50100 COMMIT */; /*M!100100 ROLLBACK */; END", vec!["COMMIT", "ROLLBACK"]),
            (
                "BEGIN CREATE TABLE t (a int); TRUNCATE TABLE t; DROP TABLE t; END",
                vec!["CREATE TABLE", "TRUNCATE", "DROP TABLE"],
            ),
            (
                "BEGIN SET @x = 1, autocommit = 1; SET SESSION autocommit = 0; END",
                vec!["SET AUTOCOMMIT", "SET AUTOCOMMIT"],
            ),
            ("BEGIN LOCK TABLES t WRITE; UNLOCK TABLES; END", vec!["LOCK TABLES", "UNLOCK TABLES"]),
            (
                "BEGIN CREATE TEMPORARY TABLE t (a int); DROP TEMPORARY TABLE t; DROP PREPARE s; END",
                vec![],
            ),
            (
                "BEGIN SAVEPOINT a; ROLLBACK TO a; ROLLBACK WORK TO SAVEPOINT a; RELEASE SAVEPOINT a; END",
                vec![],
            ),
            (
                "BEGIN -- ; COMMIT;\n # ; COMMIT;\n /* ; COMMIT; */ SET x = ';COMMIT;', y = \"a\\\"; COMMIT;\"; END",
                vec![],
            ),
            (
                "BEGIN SELECT commit, truncate(a, 1), `; commit;` FROM t ORDER BY rollback; END",
                vec![],
            ),
            ("BEGIN SET x = 'it''s'; DELETE FROM t; END", vec![]),
        ] {
            assert_eq!(ends(body), found, "{body}");
        }
    }

    #[test]
    fn what_cannot_be_looked_through_is_said() {
        let name = TableName::new("crm", "p");
        let found =
            hazards(&name, Some("BEGIN PREPARE s FROM @a; EXECUTE s; END"), "STRICT_ALL_TABLES");
        assert!(matches!(&found[..], [one] if one.message.contains("puts together")), "{found:?}");
        let found = hazards(&name, Some("BEGIN END"), "NO_ZERO_DATE");
        assert!(matches!(&found[..], [one] if one.message.contains("strict")), "{found:?}");
    }
}
