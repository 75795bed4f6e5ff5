//! The documents and the code say the same.

use std::path::{Path, PathBuf};

use clap::CommandFactory;
use tidelock::telemetry::METRICS;
use tidelock_core::Code;

#[test]
fn every_error_code_has_a_section() {
    let text = include_str!("../docs/ERRORS.md");
    for code in Code::ALL {
        assert!(text.contains(&format!("## {code}")), "docs/ERRORS.md has no section for {code}");
    }
}

/// The texts of source files and documents below a folder, with their paths.
fn texts(folder: &Path, ends: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("folder") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            found.extend(texts(&path, ends));
        } else if path.extension().is_some_and(|e| e == ends) {
            let text = std::fs::read_to_string(&path).expect("text");
            found.push((path, text));
        }
    }
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn every_metric_has_a_help_text_and_stands_in_operations() {
    let operations = include_str!("../docs/OPERATIONS.md");
    for (_, name, help) in METRICS {
        assert!(operations.contains(&format!("`{name}")), "docs/OPERATIONS.md lacks {name}");
        assert!(!help.is_empty(), "{name}");
    }
    let known = |name: &str| METRICS.iter().any(|(_, known, _)| *known == name);
    for (path, text) in texts(&root().join("src"), "rs") {
        for kind in ["counter!(\"", "gauge!(\"", "histogram!(\""] {
            for name in text.split(kind).skip(1).filter_map(|t| t.split('"').next()) {
                assert!(known(name), "{}: {name} has no help text", path.display());
            }
        }
    }
}

#[test]
fn every_command_that_a_text_names_exists() {
    let cli = tidelock::cli::Cli::command();
    let verbs: Vec<&str> = cli.get_subcommands().map(clap::Command::get_name).collect();
    let mut checked = 0;
    let mut files = texts(&root().join("src"), "rs");
    files.extend(texts(&root().join("connectors"), "rs"));
    files.extend(
        ["docs", "connectors", "examples"].iter().flat_map(|f| texts(&root().join(f), "md")),
    );
    files.push(("README.md".into(), include_str!("../README.md").to_owned()));
    for (path, text) in files {
        for rest in text.split("`tidelock ").skip(1) {
            let verb: String = rest.chars().take_while(char::is_ascii_alphabetic).collect();
            // An option, not a verb.
            if verb.is_empty() {
                continue;
            }
            checked += 1;
            assert!(verbs.contains(&verb.as_str()), "{}: `tidelock {verb}`", path.display());
        }
    }
    assert!(checked > 30, "{checked}");
}

/// Each is put where a mapping stands, between the head of a file and its systems.
#[test]
fn every_example_of_a_mapping_is_taken() {
    let text = include_str!("../docs/MAPPINGS.md");
    let mut taken = 0;
    for example in text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()) {
        let file = format!(
            "version = 1\nname = \"x\"\n{example}\n[systems.erp]\nurl = \"postgres://u@127.0.0.1/erp\"\n\
             [systems.crm]\nurl = \"mariadb://u@127.0.0.1/crm\"\n"
        );
        if let Err(error) = tidelock::config::Config::parse(&file, "docs/MAPPINGS.md") {
            panic!("{error}");
        }
        taken += 1;
    }
    assert!(taken >= 5, "{taken}");
}
