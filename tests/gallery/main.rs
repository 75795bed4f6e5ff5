//! A gallery of wrong configurations: what `tidelock check` says of each, to the letter: file, line and column, the part
//! underlined, and the cure.
//!
//! Each `NAME.toml` here is wrong in one way, over the tables of `erp.sql` (PostgreSQL) and `crm.sql` (MariaDB); what is said
//! of it stands in `NAME.txt`. After a change that is meant, `TIDELOCK_GALLERY=write cargo test --test gallery` writes the
//! texts anew, and the diff is read by a person.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use tidelock_scratch::{Mysql, Postgres};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gallery")
}

/// The configurations, by name.
fn cases() -> Vec<String> {
    let files = std::fs::read_dir(folder()).expect("folder");
    let mut names: Vec<String> = files
        .filter_map(|file| {
            let name = file.expect("file").file_name().into_string().expect("name");
            name.strip_suffix(".toml").map(str::to_owned)
        })
        .collect();
    names.sort();
    names
}

/// What `check` says, and with which exit code.
fn check(name: &str, erp: &str, crm: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_tidelock"))
        .current_dir(folder())
        .args(["check", "-c", &format!("{name}.toml")])
        .env("ERP_URL", erp)
        .env("CRM_URL", crm)
        .env_remove("CRM_ULR")
        .output()
        .expect("tidelock");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = said + &String::from_utf8_lossy(&output.stderr);
    let mut text = of_the_file(&said);
    writeln!(text, "exit code {}", output.status.code().unwrap_or(-1)).expect("text");
    text
}

/// What is said about the file, without what is said about the servers, which differs from machine to machine.
fn of_the_file(said: &str) -> String {
    let mut text = String::new();
    let mut kept = true;
    for line in said.lines() {
        if line.starts_with("  problem: ") || line.starts_with("  warning: ") {
            kept = !line.starts_with("  warning: at ");
        } else if !line.starts_with(' ') {
            kept = !line.starts_with("system ");
        } else if line == "  good" {
            kept = false;
        }
        if kept {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_is_told_with_its_place_and_its_cure() {
    let erp = Postgres::start().await.expect("postgres");
    erp.create_database("erp").await.expect("database");
    erp.sql("erp", include_str!("erp.sql")).await.expect("tables");
    let crm = Mysql::start().await.expect("mariadb");
    crm.create_database("crm").await.expect("database");
    for statement in include_str!("crm.sql").split(";\n").filter(|s| !s.trim().is_empty()) {
        crm.sql("crm", statement).await.expect(statement);
    }
    let (writes, mut differ) = (std::env::var_os("TIDELOCK_GALLERY").is_some(), String::new());
    let names = cases();
    assert!(names.len() >= 100, "{}", names.len());
    for name in &names {
        let said = check(name, &erp.url("erp"), &crm.url("crm"));
        let path = folder().join(format!("{name}.txt"));
        if writes {
            std::fs::write(&path, &said).expect("text");
            continue;
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        if said != expected {
            write!(differ, "{name}, expected:\n{expected}\nsaid:\n{said}\n").expect("text");
        }
    }
    assert!(differ.is_empty(), "{differ}");
    if !writes {
        for name in &names {
            let text = std::fs::read_to_string(folder().join(format!("{name}.txt"))).expect(name);
            assert!(!text.contains("exit code 0") || text.contains("warning:"), "{name}: {text}");
        }
    }
}
