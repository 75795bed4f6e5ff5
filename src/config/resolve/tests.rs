//! Whole files, good and damaged.

use tidelock_core::TlsMode;

use super::names::{legal, readings};
use super::system::user_of;
use super::*;
use crate::config::MappingConfig;

const GOOD: &str = r#"
version = 1
name = "erp-crm"
listen = "127.0.0.1:7373"
[systems.erp]
url = "postgres://tidelock@127.0.0.1/erp"
[systems.crm]
url = "mariadb://tidelock:s3cret@crm.example/crm"
[[mappings]]
from = "crm.orders"
to = "erp.sale.contract"
key = ["contract_no"]
[mappings.columns]
contract_no = "order_no"
"*" = "*"
[[mappings]]
from = "erp.public.*"
to = "crm.*"
exclude = ["tmp_%"]
"#;

#[test]
fn mappings_sort_into_flows_with_legal_names() {
    let config = Config::parse(GOOD, "t.toml").unwrap();
    let names: Vec<&str> = config.flows.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(names, ["crm:erp", "erp:crm"]);
    assert_eq!(config.flows[1].slot, "tidelock_erp_crm_crm");
    assert_eq!(config.flows[0].mappings[0].columns.as_ref().map(|c| c.star.is_some()), Some(true));
    assert_eq!(config.systems["erp"].tls.mode, TlsMode::Disable);
    assert_eq!(config.systems["crm"].tls.mode, TlsMode::VerifyFull);
}

#[test]
fn tls_is_off_only_where_the_connector_itself_would_go_nowhere_else() {
    let mode = |url: &str| {
        let text = GOOD.replace("postgres://tidelock@127.0.0.1/erp", url);
        Config::parse(&text, "t.toml").map(|c| c.systems["erp"].tls.mode)
    };
    for (url, expected) in [
        ("postgres:///erp?host=erp-db.example&user=u", TlsMode::VerifyFull),
        ("postgres://u@localhost/erp?host=erp-db.example", TlsMode::VerifyFull),
        ("postgres://u@erp-db.example/erp", TlsMode::VerifyFull),
        ("postgresql://u@%2Frun%2Fpostgresql/erp", TlsMode::Disable),
        ("postgres:///erp?host=/run/postgresql&user=u", TlsMode::Disable),
        ("postgres://u@erp-db.example/erp?host=127.0.0.1", TlsMode::Disable),
    ] {
        assert_eq!(mode(url), Ok(expected), "{url}");
    }
    let text = GOOD.replace("[systems.crm]", "tls = { cert_file = \"/x\" }\n[systems.crm]");
    let error = Config::parse(&text, "t.toml").unwrap_err();
    assert!(error.place.starts_with("t.toml:7:7\n") && !error.hint.is_empty(), "{error}");
    let text = GOOD.replace("[systems.crm]", "tls = {}\n[systems.crm]");
    let config = Config::parse(&text, "t.toml").expect("the default mode");
    assert_eq!(config.systems["erp"].tls.mode, TlsMode::VerifyFull, "asked for, so not off");
}

#[test]
fn who_this_process_is_stands_in_the_list_of_users() {
    let users = "root:x:0:0:root:/root:/bin/sh\nbroken\ntide:x:42:42::/:/bin/false\n";
    assert_eq!(user_of(users, 42).as_deref(), Some("tide"));
    assert_eq!(user_of(users, 43), None);
}

#[test]
fn a_mappings_word_wins_over_its_flows_and_that_over_the_defaults() {
    let text = format!(
        "{TWO}throttle = \"0s\"\nvalidate = []\n[[mappings]]\nfrom = \"crm.u\"\nto = \"erp.u\"\n\
         where = \"mine\"\nkey = [\"mine\"]\n[defaults]\nwhere = \"everyone\"\nkey = [\"id\"]\nedge = \"a > 1\"\n\
         throttle = \"60s\"\nrefresh = \"1h\"\non_change = [\"a\"]\nvalidate = [{{ rule = \"a > 0\" }}]\n\
         [flows.\"crm:erp\"]\nwhere = \"flows\"\non_change = [\"b\", \"c\"]\n"
    );
    let config = Config::parse(&text, "t.toml").expect("good");
    let mapping = |flow: usize, at: usize| &config.flows[flow].mappings[at];
    let filter = |m: &MappingConfig| m.filter.as_ref().map(|f| f.text.clone());
    assert_eq!(filter(mapping(0, 0)).as_deref(), Some("flows"));
    assert_eq!(filter(mapping(0, 1)).as_deref(), Some("mine"));
    assert_eq!(filter(mapping(1, 0)).as_deref(), Some("everyone"));
    assert_eq!(mapping(0, 0).on_change.as_ref().map(Vec::len), Some(2));
    assert_eq!(mapping(0, 1).key.as_deref(), Some(&["mine".to_owned()][..]));
    let last = mapping(1, 0);
    assert_eq!(last.key.as_deref(), Some(&["id".to_owned()][..]));
    assert!(last.throttle.is_none() && last.validate.is_empty(), "said no: {last:?}");
    assert!(last.edge.is_some() && last.refresh.is_some(), "{last:?}");
    assert!(mapping(0, 0).throttle.is_some() && mapping(0, 0).validate.len() == 1);
    let place = last.filter.as_ref().map(|f| f.place.show()).unwrap_or_default();
    assert!(place.contains("| where = \"everyone\""), "{place}");
    let all = format!(
        "{TWO}[[mappings]]\nfrom = \"crm.*\"\nto = \"erp.*\"\n[defaults]\nkey = [\"id\"]\n"
    );
    let config = Config::parse(&all, "t.toml").expect("good");
    assert_eq!(config.flows[0].mappings[1].key, None, "tables of a wildcard have their own");
}

#[test]
fn errors_name_the_place_and_the_nearest_name_and_no_secret() {
    let text = GOOD.replace("exclude", "exclud");
    let error = Config::parse(&text, "t.toml").unwrap_err().to_string();
    assert!(error.starts_with("t.toml:19:1: unknown field"), "{error}");
    assert!(error.contains("did you mean `exclude`?"), "{error}");
    let text = GOOD.replace("from = \"crm.orders\"", "from = \"cmr.orders\"");
    let error = Config::parse(&text, "t.toml").unwrap_err().to_string();
    assert!(error.starts_with("t.toml:10:8: there is no system cmr"), "{error}");
    let text = GOOD.replace("mariadb://", "oracle://");
    let error = Config::parse(&text, "t.toml").unwrap_err().to_string();
    assert!(error.contains("must begin with one of") && !error.contains("s3cret"), "{error}");
}

const TWO: &str = "version = 1\nname = \"p\"\nstate_dir = \"/tmp/x\"\n[systems.erp]\nurl = \"postgres://u@h/d\"\n\
    [systems.crm]\nurl = \"mariadb://u@h/d\"\n[[mappings]]\nfrom = \"crm.t\"\nto = \"erp.t\"\n\
    [[mappings]]\nname = \"b\"\nfrom = \"erp.t\"\nto = \"crm.t\"\nsnapshot = \"never\"\n";

#[test]
fn a_flows_number_of_copy_workers_wins_over_the_defaults_and_has_limits() {
    let workers = |rest: &str| {
        let config = Config::parse(&format!("{TWO}{rest}"), "t.toml");
        config.map(|c| c.flows.iter().map(|f| f.copy_workers).collect::<Vec<_>>())
    };
    let rest = "[defaults]\ncopy_workers = 3\n[flows.\"crm:erp\"]\ncopy_workers = 32\n";
    assert_eq!(workers(rest).expect("good"), [32, 3]);
    assert!(workers("").expect("good").iter().all(|n| (1..=4).contains(n)));
    for wrong in ["0", "33"] {
        let error =
            workers(&format!("[defaults]\ncopy_workers = {wrong}\n")).unwrap_err().to_string();
        assert!(error.contains("copy_workers is 1 to 32"), "{error}");
    }
}

#[test]
fn so_does_its_number_of_lanes() {
    let lanes = |rest: &str| {
        let config = Config::parse(&format!("{TWO}{rest}"), "t.toml");
        config.map(|c| c.flows.iter().map(|f| f.lanes).collect::<Vec<_>>())
    };
    let rest = "[defaults]\nlanes = 3\n[flows.\"crm:erp\"]\nlanes = 16\n";
    assert_eq!(lanes(rest).expect("good"), [16, 3]);
    assert_eq!(lanes("").expect("good"), [2, 2]);
    let same = TWO.replace("mariadb://", "postgres://");
    let same = Config::parse(&same, "t.toml").expect("good");
    assert!(same.flows.iter().all(|flow| flow.lanes == 1));
    let error = lanes("[defaults]\nlanes = 17\n").unwrap_err().to_string();
    assert!(error.contains("lanes is 1 to 16"), "{error}");
}

#[test]
fn what_cannot_work_or_is_not_there_yet_is_told_at_its_place() {
    let refused = |from: &str, to: &str| {
        assert!(GOOD.contains(from), "{from}");
        Config::parse(&GOOD.replacen(from, to, 1), "t.toml").unwrap_err().to_string()
    };
    let key = "key = [\"contract_no\"]";
    for (from, to, place, words) in [
        ("127.0.0.1:7373", "127.0.0.1", "t.toml:4:10", "expected host:port"),
        ("127.0.0.1:7373", "::1:7373", "t.toml:4:10", "expected host:port"),
        ("127.0.0.1:7373", "localhost:99999", "t.toml:4:10", "expected host:port"),
        ("tidelock:s3cret@", "tidelock:s3#cret@", "t.toml:8:7", "percent-encoded"),
        (key, "exclude = [\"x\"]", "t.toml:12:11", "`exclude` belongs to"),
        (key, "on_delete = { sett = { a = \"1\" } }", "t.toml:12:", "did you mean `set`?"),
        (key, "on_delete = \"delte\"", "t.toml:12:", "did you mean `delete`?"),
        (key, "validate = [{ says = \"x\" }]", "t.toml:12:", "missing field `rule`"),
        (
            "version = 1",
            "version = 1\nflows.\"crm:erb\".slot = \"x\"",
            "t.toml:3:7",
            "did you mean `crm:erp`?",
        ),
        (
            "[systems.crm]",
            "[systems.crm]\ntls = { mode = \"verify_full\" }",
            "t.toml:8:",
            "did you mean `verify-full`?",
        ),
    ] {
        let text = refused(from, to);
        assert!(text.starts_with(place) && text.contains(words), "{to}: {text}");
        assert!(!text.contains("cret"), "{text}");
    }
    assert!(Config::parse(&GOOD.replace("127.0.0.1:7373", "[::1]:7373"), "t").is_ok());
}

#[test]
fn a_column_may_say_what_becomes_of_its_values() {
    let with =
        |line: &str| Config::parse(&GOOD.replace("contract_no = \"order_no\"", line), "t.toml");
    let long = "contract_no = { value = \"order_no\", on_unrepresentable = \"null\", time_zone = \"Asia/Shanghai\" }";
    let config = with(long).expect("the long form");
    let columns = config.flows[0].mappings[0].columns.as_ref().expect("columns");
    let column = columns.columns.iter().find(|c| c.target == "contract_no").expect("it");
    assert_eq!(column.value.text, "order_no");
    assert_eq!(column.rule.on_unrepresentable, Some(crate::config::OnUnrepresentable::Null));
    assert!(column.rule.time_zone.is_some());
    for (slip, place, words) in [
        (long.replace("null", "nul"), "t.toml:14:", "did you mean `null`?"),
        (long.replace("Asia/Shanghai", "Asia/Shangai"), "t.toml:14:", "no time zone of this name"),
        (long.replace("value", "valu"), "t.toml:14:", "did you mean `value`?"),
        ("contract_no = 5".to_owned(), "t.toml:14:", "a source column, an expression"),
        (
            "contract_no = \"  \"".to_owned(),
            "t.toml:14:",
            "expected a source column or an expression",
        ),
    ] {
        let error = with(&slip).unwrap_err().to_string();
        assert!(error.starts_with(place) && error.contains(words), "{slip}: {error}");
    }
}

/// The example, with secrets where people put them.
fn example() -> String {
    include_str!("../../../examples/erp-crm/tidelock.toml")
        .replace("{ env = \"ERP_URL\" }", "\"postgres://tidelock:s3cret@erp-db:5432/erp\"")
        .replace("{ env = \"CRM_URL\" }", "\"mysql:///crm?password=s3cret&socket=/run/x\"")
}

#[test]
fn fuzz_damaged_configurations_give_an_answer() {
    let example = example();
    let parts = example.split_inclusive("\n\n").map(|part| part.as_bytes().to_vec());
    let corpus: Vec<Vec<u8>> =
        [example.as_bytes().to_vec(), GOOD.as_bytes().to_vec()].into_iter().chain(parts).collect();
    let bytes_max = |length: usize| 512 * length as u64 + (256 << 10);
    tidelock_fuzz::fuzz("config", &corpus, bytes_max, |bytes| {
        let _ = Config::parse(&String::from_utf8_lossy(bytes), "t.toml");
    });
}

#[test]
fn no_single_slip_in_a_url_shows_its_password() {
    let example = example();
    for line in example.lines().filter(|line| line.contains("s3cret")) {
        for at in 0..line.len() {
            for slip in ["", "\"", "#", " ", "=", "x", ":", "@"] {
                for end in [at, at + 1] {
                    let slipped = format!("{}{slip}{}", &line[..at], &line[end..]);
                    let text = example.replace(line, &slipped);
                    if let Err(error) = Config::parse(&text, "t.toml") {
                        assert!(!error.to_string().contains("s3cret"), "{slipped}: {error}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_password_written_where_none_belongs_is_not_shown() {
    for line in [
        "password = \"s3cret\"",
        "passwort = \"s3cret\"",
        "password = \"s3cret",
        "password = \"s3cret of the file\"",
        "mask_key = \"s3cret\"",
    ] {
        let text = GOOD.replacen("[systems.crm]", &format!("{line}\n[systems.crm]"), 1);
        let error = Config::parse(&text, "t.toml").unwrap_err().to_string();
        assert!(!error.contains("s3cret") && error.contains("t.toml:7:"), "{error}");
    }
}

#[test]
fn names_that_our_tables_cannot_hold_are_refused_at_their_place() {
    let with = |from: &str, to: &str| Config::parse(&GOOD.replace(from, to), "t.toml");
    let refused = |from: &str, to: &str| with(from, to).unwrap_err().to_string();
    let pipeline = |name: &str| format!("name = \"{name}\"");
    assert!(with("name = \"erp-crm\"", &pipeline(&"ü".repeat(64))).is_ok());
    let text = refused("name = \"erp-crm\"", &pipeline(&"ü".repeat(65)));
    assert!(text.starts_with("t.toml:3:8: the pipeline's name has 65 characters"), "{text}");
    let key = "key = [\"contract_no\"]";
    let mapping = |name: &str| format!("name = \"{name}\"\n{key}");
    assert!(with(key, &mapping(&"ü".repeat(190))).is_ok());
    let text = refused(key, &mapping(&"ü".repeat(191)));
    assert!(text.starts_with("t.toml:12:8: the mapping's name has 191 characters"), "{text}");
    assert!(text.contains("hint: choose another name"), "{text}");
    // An empty name is the flow's own in our tables.
    assert!(refused(key, &mapping("")).contains("has 0 characters"));
    let table = format!("from = \"crm.{}\"", "t".repeat(200));
    let text = refused("from = \"crm.orders\"", &table);
    assert!(text.starts_with("t.toml:10:8: the mapping's name has 200 characters"), "{text}");
    let long = "c".repeat(125);
    let text = GOOD.replace("erp-crm", "p").replace("crm", &long);
    let text = Config::parse(&text, "t.toml").unwrap_err().to_string();
    assert!(text.contains("made of its two systems', has 129 characters"), "{text}");
}

#[test]
fn names_that_had_to_change_stay_apart() {
    assert_ne!(legal_name("a_b", "c"), legal_name("a", "b_c"));
    assert_ne!(legal_name("a-b", "c"), legal_name("a_b", "c"));
    assert_ne!(legal_name("a-b", "c"), legal_name("a", "b-c"));
    assert!(legal(&legal_name(&"x".repeat(64), "Ä")));
}

#[test]
fn a_name_is_known_as_the_pipelines_own_and_no_other() {
    let systems = ["CRM".to_owned()];
    let pipelines = ["a", "a-b", "a_b", "a-b-c", "A"];
    for (owner, target) in pipelines.iter().flat_map(|p| ["c", "b-c", "b_c", "CRM"].map(|t| (p, t)))
    {
        let name = legal_name(owner, target);
        for pipeline in pipelines {
            let own = is_name_of(pipeline, &name, systems.iter());
            assert_eq!(own, pipeline == *owner, "{name} of {owner}, asked by {pipeline}");
        }
    }
    let long = "p".repeat(64);
    assert!(is_name_of(&long, &legal_name(&long, "CRM"), systems.iter()));
    assert!(!is_name_of("a", "tidelock_a_b_c", systems.iter()));
    assert_eq!(readings(&"_".repeat(60)).len(), 64);
}

#[test]
fn odd_table_names_are_quoted() {
    let parts = split_name("crm.\"Order \"\"Lines\"\".x\"").unwrap();
    assert_eq!(parts[1].0, "Order \"Lines\".x");
    assert!(split_name("crm..x").is_none());
    assert!(split_name("crm.\"x").is_none());
}
