//! What a statement in the log may touch, judged conservatively from its words. Pure.

/// What a statement is, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Statement {
    Begin,
    Commit,
    Rollback,
    Savepoint,
    XaStart,
    XaEnd,
    XaDecide,
    /// Rows written as a statement, not as rows.
    Write,
    Truncate,
    /// A table, or rows of it, are gone or replaced without row events.
    Lossy,
    /// The columns of a table may be others now.
    Alter,
    /// The keys of a table may be others now, its columns are not.
    Index,
    /// Names changed.
    Rename,
    /// Anything else.
    Other,
}

/// A word of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Word {
    pub text: String,
    /// An identifier in quotes is no keyword.
    quoted: bool,
    /// A dot stands before it: it belongs to the word before.
    pub dotted: bool,
    /// Open parentheses around it.
    depth: usize,
}

impl Word {
    fn is(&self, keyword: &str) -> bool {
        !self.quoted && !self.dotted && self.text.eq_ignore_ascii_case(keyword)
    }
}

/// A table as a statement names it; without a schema it is of the default database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Named<'a> {
    pub schema: Option<&'a str>,
    pub table: &'a str,
}

/// The words of a statement: identifiers and keywords, without comments and strings. Executable comments
/// (`/*!50100 … */`) count as text. What MariaDB lets stand before a statement (`SET STATEMENT … FOR`) is left out.
/// Without the `sql_mode` a backslash escapes, and what stands in double quotes counts as a name.
pub(crate) fn words(sql: &str, mode: Option<u64>) -> Vec<Word> {
    let mut words = all_words(sql, mode);
    while let [first, second, ..] = words.as_slice()
        && first.is("SET")
        && second.is("STATEMENT")
    {
        match words.iter().position(|w| w.depth == 0 && w.is("FOR")) {
            Some(at) => drop(words.drain(..=at)),
            None => break,
        }
    }
    words
}

/// `ANSI_QUOTES` and `NO_BACKSLASH_ESCAPES`.
const ANSI_QUOTES: u64 = 1 << 2;
const NO_ESCAPES: u64 = 1 << 20;

fn all_words(sql: &str, mode: Option<u64>) -> Vec<Word> {
    let ansi = mode.is_none_or(|mode| mode & ANSI_QUOTES != 0);
    let escapes = mode.is_none_or(|mode| mode & NO_ESCAPES == 0);
    let mut words: Vec<Word> = Vec::new();
    let (mut dotted, mut depth) = (false, 0usize);
    let mut chars = sql.chars().peekable();
    while let Some(c) = chars.next() {
        let mut push = |text: String, quoted: bool| {
            words.push(Word { text, quoted, dotted: std::mem::take(&mut dotted), depth });
        };
        match c {
            '`' | '"' if c == '`' || ansi => {
                let mut word = String::new();
                while let Some(x) = chars.next() {
                    if x == c {
                        if chars.peek() != Some(&c) {
                            break;
                        }
                        chars.next();
                    }
                    word.push(x);
                }
                push(word, true);
            }
            '\'' | '"' => {
                while let Some(x) = chars.next() {
                    match x {
                        '\\' if escapes => drop(chars.next()),
                        x if x == c && chars.peek() == Some(&c) => drop(chars.next()),
                        x if x == c => break,
                        _ => {}
                    }
                }
            }
            '#' => while chars.next().is_some_and(|x| x != '\n') {},
            // A number may have two signs: a comment has a blank behind them.
            '-' if chars.peek() == Some(&'-')
                && chars.clone().nth(1).is_none_or(|x| x.is_whitespace() || x.is_control()) =>
            {
                while chars.next().is_some_and(|x| x != '\n') {}
            }
            '/' if chars.peek() == Some(&'*') => {
                chars.next();
                let run = match chars.peek() {
                    Some('!') => true,
                    Some('M') => {
                        chars.next();
                        chars.peek() == Some(&'!')
                    }
                    _ => false,
                };
                if run {
                    chars.next();
                    while chars.peek().is_some_and(char::is_ascii_digit) {
                        chars.next();
                    }
                } else {
                    let mut before = ' ';
                    for x in chars.by_ref() {
                        if before == '*' && x == '/' {
                            break;
                        }
                        before = x;
                    }
                }
            }
            c if c.is_alphanumeric() || c == '_' || c == '$' => {
                let mut word = String::from(c);
                while let Some(x) = chars.next_if(|x| x.is_alphanumeric() || *x == '_' || *x == '$')
                {
                    word.push(x);
                }
                push(word, false);
            }
            '.' => dotted = true,
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            c if c.is_whitespace() => {}
            _ => dotted = false,
        }
    }
    words
}

/// Classifies a statement by its words.
pub(crate) fn classify(words: &[Word]) -> Statement {
    let upper: Vec<String> = words
        .iter()
        .take(2)
        .map(|w| if w.quoted { String::new() } else { w.text.to_ascii_uppercase() })
        .collect();
    let at = |i: usize| upper.get(i).map_or("", String::as_str);
    // Before the table's name stands what the statement may do to its rows.
    let ignore = words.iter().take_while(|w| !w.is("TABLE")).any(|w| w.is("IGNORE"));
    match (at(0), at(1)) {
        ("BEGIN", _) | ("START", "TRANSACTION") => Statement::Begin,
        ("COMMIT", _) => Statement::Commit,
        ("ROLLBACK", "TO") | ("SAVEPOINT", _) | ("RELEASE", _) => Statement::Savepoint,
        ("ROLLBACK", _) => Statement::Rollback,
        ("XA", "START" | "BEGIN") => Statement::XaStart,
        ("XA", "COMMIT" | "ROLLBACK") => Statement::XaDecide,
        ("XA", _) => Statement::XaEnd,
        ("INSERT" | "UPDATE" | "DELETE" | "REPLACE" | "LOAD" | "WITH" | "CALL" | "DO", _)
        | ("SELECT", _) => Statement::Write,
        ("TRUNCATE", _) => Statement::Truncate,
        ("DROP", "TABLE" | "DATABASE" | "SCHEMA" | "TABLES") => Statement::Lossy,
        // What stands in the body of a routine, an event or a trigger is not done by making it.
        ("CREATE", "OR") if words.get(3).is_some_and(|w| w.is("TABLE")) => Statement::Lossy,
        ("ALTER", "TABLE" | "ONLINE" | "OFFLINE" | "IGNORE") => {
            // Duplicates go without a row event.
            match ignore || part(words).is_some() {
                true => Statement::Lossy,
                false => Statement::Alter,
            }
        }
        ("DROP", "INDEX") | ("CREATE", "UNIQUE") => Statement::Index,
        ("RENAME", _) => Statement::Rename,
        _ => Statement::Other,
    }
}

/// The table that starts at a word, and where the words go on after it.
fn name_at(words: &[Word], at: usize) -> Option<(Named<'_>, usize)> {
    let first = words.get(at).filter(|w| !w.dotted)?;
    match words.get(at + 1).filter(|w| w.dotted) {
        Some(second) if words.get(at + 2).is_none_or(|w| !w.dotted) => {
            Some((Named { schema: Some(&first.text), table: &second.text }, at + 2))
        }
        Some(_) => None,
        None => Some((Named { schema: None, table: &first.text }, at + 1)),
    }
}

/// What may be tables with their databases: the first two parts of each name that has several.
pub(crate) fn qualified(words: &[Word]) -> impl Iterator<Item = (&str, &str)> {
    words.windows(2).filter_map(|pair| match pair {
        [first, second] if !first.dotted && second.dotted => {
            Some((first.text.as_str(), second.text.as_str()))
        }
        _ => None,
    })
}

/// The one table that `TRUNCATE` or `CREATE OR REPLACE TABLE` is about; others may be mentioned.
pub(crate) fn subject(words: &[Word]) -> Option<Named<'_>> {
    let at = match words.first() {
        Some(first) if first.is("TRUNCATE") => {
            if words.get(1).is_some_and(|w| w.is("TABLE")) {
                2
            } else {
                1
            }
        }
        _ => words.iter().position(|w| w.is("TABLE"))? + 1,
    };
    name_at(words, at).map(|(name, _)| name)
}

/// The one table that `INSERT`, `REPLACE` or `LOAD DATA` writes; `None` where it may be any that is mentioned.
pub(crate) fn written(words: &[Word]) -> Option<Named<'_>> {
    const BETWEEN: [&str; 5] = ["LOW_PRIORITY", "DELAYED", "HIGH_PRIORITY", "IGNORE", "INTO"];
    let is = |at: usize, keyword: &str| words.get(at).is_some_and(|w| w.is(keyword));
    let at = if is(0, "INSERT") || is(0, "REPLACE") {
        (1..words.len()).find(|at| BETWEEN.iter().all(|word| !is(*at, word)))?
    } else if is(0, "LOAD") {
        // `INTO` may have been left out, with the file's name.
        (1..words.len()).find(|at| is(*at, "TABLE"))? + 1
    } else {
        return None;
    };
    name_at(words, at).map(|(name, _)| name)
}

/// What a statement does to the temporary tables of its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Temporary<'a> {
    /// There is one of this name now.
    Made(Named<'a>),
    /// Those that it mentions may be gone or have other names.
    Lost,
    Same,
}

/// What a statement does to the temporary tables of its session.
pub(crate) fn temporary(words: &[Word]) -> Temporary<'_> {
    let is = |at: usize, keyword: &str| words.get(at).is_some_and(|w| w.is(keyword));
    let create = match is(1, "OR") && is(2, "REPLACE") {
        true => 3,
        false => 1,
    };
    if is(0, "CREATE") && is(create, "TEMPORARY") && is(create + 1, "TABLE") {
        let exists = is(create + 2, "IF") && is(create + 3, "NOT") && is(create + 4, "EXISTS");
        let at = create + if exists { 5 } else { 2 };
        return name_at(words, at).map_or(Temporary::Same, |(name, _)| Temporary::Made(name));
    }
    let renames = is(0, "ALTER") && words.iter().any(|w| w.is("RENAME"));
    match is(0, "DROP") || is(0, "RENAME") || renames {
        true => Temporary::Lost,
        false => Temporary::Same,
    }
}

/// What a [`Statement::Lossy`] does to a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// It goes away.
    Dropped,
    /// Another one takes its place.
    Replaced,
    /// A partition's rows go away.
    Partition,
    /// Rows come, or go and come.
    Rows(&'static str),
}

/// What a [`Statement::Lossy`] does.
pub(crate) fn loss(words: &[Word]) -> Loss {
    let first = |keyword: &str| words.first().is_some_and(|w| w.is(keyword));
    if first("DROP") {
        Loss::Dropped
    } else if first("CREATE") {
        Loss::Replaced
    } else {
        part(words).unwrap_or(Loss::Rows("duplicates were removed by ALTER IGNORE TABLE"))
    }
}

/// What an `ALTER TABLE` does to the rows of whole partitions or files. `PARTITION BY` and what is done to columns and keys
/// beside it moves rows and takes none.
fn part(words: &[Word]) -> Option<Loss> {
    const CONVERTED: &str = "a partition was made of a table, or a table of a partition";
    let is =
        |at: usize, keyword: &str| words.get(at).is_some_and(|w| w.depth == 0 && w.is(keyword));
    (0..words.len()).find_map(|at| match is(at + 1, "PARTITION") {
        true if is(at, "DROP") || is(at, "TRUNCATE") => Some(Loss::Partition),
        true if is(at, "EXCHANGE") => Some(Loss::Rows("a partition was exchanged for a table")),
        true if is(at, "CONVERT") => Some(Loss::Rows(CONVERTED)),
        true if is(at, "IMPORT") => {
            Some(Loss::Rows("a partition's file was replaced by another one"))
        }
        false if is(at, "CONVERT") && is(at + 1, "TABLE") => Some(Loss::Rows(CONVERTED)),
        false if is(at, "IMPORT") && is(at + 1, "TABLESPACE") => {
            Some(Loss::Rows("its file was replaced by another one"))
        }
        true | false => None,
    })
}

/// Columns that an `ALTER TABLE` takes away or gives another name.
pub(crate) fn columns_taken(words: &[Word]) -> Vec<&str> {
    const OTHER: [&str; 10] = [
        "INDEX",
        "KEY",
        "PRIMARY",
        "FOREIGN",
        "CONSTRAINT",
        "CHECK",
        "PARTITION",
        "SYSTEM",
        "PERIOD",
        "DEFAULT",
    ];
    let is = |at: usize, keyword: &str| words.get(at).is_some_and(|w| w.is(keyword));
    let mut taken = Vec::new();
    for at in 0..words.len() {
        if words.get(at).is_none_or(|w| w.depth > 0) {
            continue;
        }
        let drop = is(at, "DROP");
        if drop && OTHER.iter().any(|other| is(at + 1, other)) {
            continue;
        }
        let renamed = is(at, "RENAME") && is(at + 1, "COLUMN");
        if !(drop || renamed || is(at, "CHANGE")) {
            continue;
        }
        let mut name = at + 1;
        if is(name, "COLUMN") {
            name += 1;
        }
        if is(name, "IF") && is(name + 1, "EXISTS") {
            name += 2;
        }
        let same = is(at, "CHANGE")
            && words.get(name).zip(words.get(name + 1)).is_some_and(|(a, b)| a.text == b.text);
        if let Some(word) = words.get(name).filter(|_| !same) {
            taken.push(word.text.as_str());
        }
    }
    taken
}

/// Whether a table of this name is the copy that an online schema changer (gh-ost, pt-online-schema-change,
/// spirit, the older OSC) fills for another one: it holds the same rows.
pub(crate) fn is_shadow(name: &str, of: &str) -> bool {
    let bare = name.trim_start_matches('_');
    let underscored = bare.len() < name.len();
    underscored
        && (bare == format!("{of}_gho")
            || bare == format!("{of}_new")
            || bare == format!("osc_new_{of}"))
}

/// What a renaming takes names from, and what it gives names to; `None` if it is not understood.
pub(crate) fn renames(words: &[Word]) -> Option<(Vec<Named<'_>>, Vec<Named<'_>>)> {
    let (mut from, mut to) = (Vec::new(), Vec::new());
    let is = |at: usize, keyword: &str| words.get(at).is_some_and(|w| w.is(keyword));
    if is(0, "ALTER") {
        let table = words.iter().position(|w| w.is("TABLE"))? + 1;
        let table = if is(table, "IF") && is(table + 1, "EXISTS") { table + 2 } else { table };
        let (old, rest) = name_at(words, table)?;
        for at in rest..words.len() {
            let parts = ["COLUMN", "INDEX", "KEY", "CONSTRAINT"];
            if is(at, "RENAME") && !parts.iter().any(|part| is(at + 1, part)) {
                let at = if is(at + 1, "TO") || is(at + 1, "AS") { at + 2 } else { at + 1 };
                from.push(old);
                to.push(name_at(words, at)?.0);
            }
        }
        return Some((from, to));
    }
    if !is(0, "RENAME") || !(is(1, "TABLE") || is(1, "TABLES")) {
        return None;
    }
    let mut at = if is(2, "IF") && is(3, "EXISTS") { 4 } else { 2 };
    while at < words.len() {
        let (old, next) = name_at(words, at)?;
        at = next;
        if is(at, "NOWAIT") {
            at += 1;
        } else if is(at, "WAIT") {
            at += 2;
        }
        if !is(at, "TO") {
            return None;
        }
        let (new, next) = name_at(words, at + 1)?;
        from.push(old);
        to.push(new);
        at = next;
    }
    Some((from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(sql: &str) -> Vec<Word> {
        super::words(sql, None)
    }

    #[test]
    fn what_a_quotation_mark_is_depends_on_the_mode() {
        let taken = |sql: &str, mode: u64| {
            let words = super::words(sql, Some(mode));
            columns_taken(&words).join(",")
        };
        assert_eq!(taken(r"ALTER TABLE t COMMENT 'x\', DROP a", NO_ESCAPES), "a");
        assert_eq!(taken(r"ALTER TABLE t COMMENT 'x\', DROP a'", 0), "");
        assert_eq!(taken(r#"ALTER TABLE t COMMENT "it's", DROP a"#, 0), "a");
        assert_eq!(taken(r#"ALTER TABLE t DROP "a b""#, ANSI_QUOTES), "a b");
        assert_eq!(taken("ALTER TABLE t ADD CHECK (b --1 > 0), DROP a", 0), "a");
        let named = super::words(r#"ALTER TABLE t COMMENT "u""#, Some(0));
        assert!(named.iter().all(|word| word.text != "u"));
    }

    fn texts(sql: &str) -> Vec<String> {
        words(sql).into_iter().map(|w| w.text).collect()
    }

    #[test]
    fn comments_and_quotes_do_not_hide_a_table() {
        let w = |s: &str| words(s);
        assert_eq!(texts("TRUNCATE /* ; */ TABLE `a``b`"), ["TRUNCATE", "TABLE", "a`b"]);
        assert_eq!(texts("ALTER TABLE t /*!50100 DROP x */"), ["ALTER", "TABLE", "t", "DROP", "x"]);
        assert_eq!(texts("INSERT INTO t VALUES ('it''s \\' x', 1) -- y\n, z").last().unwrap(), "z");
        assert_eq!(classify(&w("/* c */ rename table a to b")), Statement::Rename);
        assert_eq!(
            classify(&w("DROP TABLE IF EXISTS `x` /* generated by server */")),
            Statement::Lossy
        );
        assert_eq!(classify(&w("CREATE OR REPLACE TABLE x AS SELECT 1")), Statement::Lossy);
        assert_eq!(classify(&w("CREATE OR REPLACE VIEW x AS SELECT 1")), Statement::Other);
        assert_eq!(classify(&w("DROP INDEX i ON t")), Statement::Index);
        assert_eq!(classify(&w("BEGIN")), Statement::Begin);
    }

    #[test]
    fn what_stands_before_a_statement_does_not_hide_it() {
        let kind = |s: &str| classify(&words(s));
        let set = "SET STATEMENT max_statement_time = 5, sql_mode = (SELECT 1 FOR UPDATE) FOR ";
        assert_eq!(kind(&format!("{set}TRUNCATE TABLE t")), Statement::Truncate);
        assert_eq!(kind(&format!("{set}INSERT INTO t VALUES (1)")), Statement::Write);
        assert_eq!(kind("SET PASSWORD FOR x = 'y'"), Statement::Other);
        assert_eq!(kind("ALTER IGNORE TABLE t ADD UNIQUE (a)"), Statement::Lossy);
        assert_eq!(kind("ALTER TABLE t IMPORT TABLESPACE"), Statement::Lossy);
        assert_eq!(kind("ALTER TABLE t CONVERT PARTITION p TO TABLE x"), Statement::Lossy);
        assert_eq!(kind("ALTER TABLE t ADD `ignore` int"), Statement::Alter);
        assert_eq!(kind("ALTER TABLE t IMPORT PARTITION p TABLESPACE"), Statement::Lossy);
        let parted = "ALTER TABLE t DROP PRIMARY KEY, ADD PRIMARY KEY (id, d) \
                      PARTITION BY RANGE (d) (PARTITION p VALUES LESS THAN (5))";
        assert_eq!(kind(parted), Statement::Alter);
        let body = "BEGIN TRUNCATE TABLE t; ALTER TABLE t DROP PARTITION p; END";
        for made in ["OR REPLACE PROCEDURE x()", "OR REPLACE EVENT x DO", "EVENT x DO"] {
            assert_eq!(kind(&format!("CREATE {made} {body}")), Statement::Other);
        }
        assert_eq!(kind(&format!("ALTER EVENT x DO {body}")), Statement::Other);
        assert_eq!(kind("CREATE OR REPLACE TEMPORARY TABLE t (a int)"), Statement::Other);
    }

    #[test]
    fn the_subject_of_a_truncate_is_one_table_of_one_schema() {
        let of = |s: &str| {
            let words = words(s);
            subject(&words).map(|n| (n.schema.map(str::to_owned), n.table.to_owned()))
        };
        let bare = |t: &str| Some((None, t.to_owned()));
        assert_eq!(of("TRUNCATE t"), bare("t"));
        assert_eq!(of("TRUNCATE TABLE `table` NOWAIT"), bare("table"));
        assert_eq!(of("truncate `table`"), bare("table"));
        assert_eq!(of("TRUNCATE a . `b`"), Some((Some("a".into()), "b".into())));
        assert_eq!(of("CREATE OR REPLACE TABLE x LIKE t"), bare("x"));
        assert_eq!(of("TRUNCATE"), None);
        assert_eq!(of("TRUNCATE a.b.c"), None);
    }

    #[test]
    fn what_a_statement_takes_away_is_read_from_its_words() {
        let taken = |s: &str| {
            let words = words(s);
            columns_taken(&words).join(",")
        };
        assert_eq!(taken("ALTER TABLE t DROP a, ADD a int DEFAULT 5, DROP INDEX i"), "a");
        assert_eq!(taken("ALTER TABLE t DROP COLUMN IF EXISTS `b c`, DROP PRIMARY KEY"), "b c");
        assert_eq!(taken("ALTER TABLE t CHANGE a b int, CHANGE COLUMN c c bigint"), "a");
        assert_eq!(taken("ALTER TABLE t RENAME COLUMN a TO b, RENAME INDEX i TO j"), "a");
        assert_eq!(taken("ALTER TABLE t ALTER c DROP DEFAULT, MODIFY d int, ADD (e int)"), "");
        let lost = |s: &str| loss(&words(s));
        assert_eq!(lost("DROP TABLE t"), Loss::Dropped);
        assert_eq!(lost("CREATE OR REPLACE TABLE t (a int)"), Loss::Replaced);
        assert_eq!(lost("ALTER TABLE t TRUNCATE PARTITION p"), Loss::Partition);
        assert_eq!(lost("ALTER TABLE t DROP PARTITION IF EXISTS p"), Loss::Partition);
        let import = "ALTER TABLE t IMPORT PARTITION p TABLESPACE";
        assert!(matches!(lost(import), Loss::Rows(why) if why.contains("file")));
        let convert = "ALTER TABLE t CONVERT TABLE x TO PARTITION p VALUES LESS THAN (5)";
        assert!(matches!(lost(convert), Loss::Rows(_)));
        assert!(matches!(lost("ALTER TABLE t EXCHANGE PARTITION p WITH TABLE x"), Loss::Rows(_)));
        assert!(matches!(lost("ALTER IGNORE TABLE t ADD UNIQUE (a)"), Loss::Rows(_)));
    }

    #[test]
    fn what_a_statement_only_reads_is_not_written() {
        let of = |s: &str| {
            let words = words(s);
            written(&words).map(|n| (n.schema.map(str::to_owned), n.table.to_owned()))
        };
        let sums = Some((Some("p".to_owned()), "sums".to_owned()));
        assert_eq!(of("REPLACE INTO p.sums (a) SELECT count(*) FROM t"), sums);
        assert_eq!(of("INSERT LOW_PRIORITY IGNORE `t` VALUES (1)"), Some((None, "t".to_owned())));
        assert_eq!(of("LOAD DATA INFILE 'x' IGNORE INTO TABLE p.sums"), sums);
        assert_eq!(of("UPDATE a, t SET t.b = a.b"), None);
        assert_eq!(of("INSERT"), None);
    }

    #[test]
    fn shadow_tables_are_known_by_their_names() {
        assert!(
            is_shadow("_t_gho", "t") && is_shadow("__t_new", "t") && is_shadow("__osc_new_t", "t")
        );
        assert!(!is_shadow("t_new", "t") && !is_shadow("_u_gho", "t") && !is_shadow("x", "t"));
    }

    #[test]
    fn renames_are_read_in_pairs() {
        let of = |s: &str| {
            let words = words(s);
            renames(&words).map(|(from, to)| {
                let list = |names: Vec<Named<'_>>| {
                    names.iter().map(|n| n.table.to_owned()).collect::<Vec<_>>().join(",")
                };
                (list(from), list(to))
            })
        };
        let pair = |a: &str, b: &str| Some((a.to_owned(), b.to_owned()));
        assert_eq!(of("RENAME TABLE t TO _t_del, d._t_gho TO t"), pair("t,_t_gho", "_t_del,t"));
        assert_eq!(of("RENAME TABLES IF EXISTS t WAIT 5 TO `to`"), pair("t", "to"));
        assert_eq!(of("ALTER TABLE t ADD a int, RENAME TO x"), pair("t", "x"));
        assert_eq!(of("ALTER TABLE t RENAME COLUMN a TO b, RENAME INDEX i TO j"), pair("", ""));
        assert_eq!(of("ALTER TABLE t RENAME x"), pair("t", "x"));
        assert_eq!(of("RENAME USER a TO b"), None);
    }
}
