//! Commands to a daemon: what they need, what they answer and where, and what its metrics say of it.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::SOON;
use super::daemon::{Daemon, command};

/// A configuration that serves metrics, and where.
fn served(text: &str) -> (String, String) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
    let address = listener.local_addr().expect("address").to_string();
    let listen = format!("version = 1\nlisten = {address:?}\n");
    (text.replace("version = 1\n", &listen), address)
}

fn metrics(address: &str) -> String {
    let mut stream = std::net::TcpStream::connect(address).expect("connect");
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answer");
    answer
}

/// The value of a series; none where it is not shown.
fn value(address: &str, series: &str) -> Option<f64> {
    let text = metrics(address);
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{series} ")))?;
    line.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_whose_source_is_away_can_be_paused_and_each_failure_counts_for_its_system() {
    let (a, b) = (super::postgres().await, super::postgres().await);
    let folder = tempfile::tempdir().expect("folder");
    let systems = [("a", a.url("db")), ("b", b.url("db"))];
    let (text, address) = served(&super::config(folder.path(), &systems, &[("a", "b")]));
    let mut daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    let reconnects =
        |system: &str| value(&address, &format!("tidelock_reconnects_total{{system={system:?}}}"));
    assert_eq!((reconnects("a"), reconnects("b")), (Some(0.0), Some(0.0)));

    a.stop().await.expect("stop");
    let state = |wanted: &'static str| move |flows: &[Value]| flows[0]["state"] == wanted;
    daemon.wait("retrying", SOON, state("retrying")).await;
    assert!(reconnects("a") > Some(0.0), "{}", metrics(&address));
    assert_eq!(reconnects("b"), Some(0.0), "the source alone is away");
    let (code, said) = daemon.command(&["pause"]);
    assert!(code == 0 && said == "paused a:b\n", "{said}");
    assert_eq!(daemon.flows()[0]["state"], "paused");
    // Of a process that has never met the source, too.
    daemon.kill_and_start();
    daemon.wait("paused", SOON, state("paused")).await;
    a.start_again().await.expect("start");
    let (code, said) = daemon.command(&["resume"]);
    assert!(code == 0, "{said}");
    daemon.streaming().await;

    let before = reconnects("a");
    b.stop().await.expect("stop");
    a.sql("db", "INSERT INTO item VALUES (1, 1, 'x')").await.expect("insert");
    daemon.wait("retrying", SOON, state("retrying")).await;
    assert!(reconnects("b") > Some(0.0), "{}", metrics(&address));
    assert_eq!(reconnects("a"), before, "the target alone is away");
    b.start_again().await.expect("start");
    daemon.streaming().await;
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gauges_of_a_flow_that_a_reload_takes_away_go_with_it() {
    let (a, b) = (super::postgres().await, super::mysql().await);
    let folder = tempfile::tempdir().expect("folder");
    let systems = [("a", a.url("db")), ("b", b.url("db"))];
    let both = super::config(folder.path(), &systems, &[("a", "b"), ("b", "a")]);
    let (both, address) = served(&both);
    let (one, _) = both.rsplit_once("[[mappings]]").expect("two");
    let daemon = Daemon::start(folder.path(), &both);
    daemon.streaming().await;
    daemon.wait("lag", SOON, |flows| flows.iter().all(|f| f["lag_seconds"].is_number())).await;
    let gauges = |flow: &str| -> Vec<String> {
        let text = metrics(&address);
        let kept = ["_total", "tidelock_apply_latency"];
        text.lines()
            .filter(|l| l.contains(&format!("flow={flow:?}")))
            .filter(|l| !kept.iter().any(|k| l.contains(k)))
            .map(str::to_owned)
            .collect()
    };
    for name in ["lag_seconds", "flow_state", "exceptions_open", "lag_probe_age_seconds"] {
        let there = gauges("b:a").iter().any(|l| l.starts_with(&format!("tidelock_{name}{{")));
        assert!(there, "{name}: {:?}", gauges("b:a"));
    }
    std::fs::write(folder.path().join("tidelock.toml"), one).expect("config");
    let (code, said) = daemon.command(&["reload"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(gauges("b:a"), Vec::<String>::new());
    assert!(
        gauges("a:b").iter().any(|l| l.contains("state=\"streaming\"} 1")),
        "{:?}",
        gauges("a:b")
    );
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_that_has_not_come_to_its_systems_yet_shows_that_it_starts() {
    let b = super::mysql().await;
    let folder = tempfile::tempdir().expect("folder");
    // It takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
    let port = silent.local_addr().expect("address").port();
    let a = format!("postgres://tidelock@127.0.0.1:{port}/db");
    let systems = [("a", a), ("b", b.url("db"))];
    let (text, address) = served(&super::config(folder.path(), &systems, &[("a", "b")]));
    let _daemon = Daemon::start(folder.path(), &text);
    let starting = "tidelock_flow_state{flow=\"a:b\",state=\"starting\"}";
    tidelock_scratch::wait_for("starting", SOON, Some(1.0), async || {
        std::net::TcpStream::connect(&address).ok().and_then(|_| value(&address, starting))
    })
    .await
    .expect("starting");
}

/// What a command says on standard output and on standard error.
fn apart(config: &Path, args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_tidelock"))
        .args(args)
        .arg("-c")
        .arg(config)
        .output()
        .expect("tidelock");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_has_the_secrets_and_its_commands_need_none() {
    let (a, b) = (super::postgres().await, super::mysql().await);
    let folder = tempfile::tempdir().expect("folder");
    let systems = [("a", a.url("db")), ("b", b.url("db"))];
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "x\n").expect("secret");
    let kept = format!("[systems.a]\npassword = {{ file = {:?} }}\n", secret.display().to_string());
    let text =
        super::config(folder.path(), &systems, &[("a", "b")]).replace("[systems.a]\n", &kept);
    let daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    std::fs::remove_file(&secret).expect("secret");
    let config = folder.path().join("tidelock.toml");
    let (code, said, beside) = apart(&config, &["status", "--json"]);
    assert_eq!(code, 0, "{said} {beside}");
    let status: Value = serde_json::from_str(&said).expect("one document");
    assert_eq!(status["flows"][0]["state"], "streaming");
    assert!(beside.contains("not looked for leftovers"), "{beside}");
    for (verb, answer) in [("pause", "paused a:b\n"), ("resume", "resumed a:b\n")] {
        let (code, said, beside) = apart(&config, &[verb]);
        assert_eq!((code, said.as_str(), beside.as_str()), (0, answer, ""), "{verb}");
    }
    // What the daemon cannot read it says, in its own words, where errors go.
    let (code, said, beside) = apart(&config, &["reload"]);
    assert!(code == 2 && said.is_empty(), "{said} {beside}");
    assert!(beside.starts_with("error: ") && beside.contains("tidelock.toml:5:12: "), "{beside}");
    let (code, said, beside) = apart(&config, &["reload", "--json"]);
    let answer: Value = serde_json::from_str(&said).expect("one document");
    assert!(code == 2 && beside.is_empty() && answer["ok"] == false, "{answer}");
    let place = answer["error"]["place"].as_str().unwrap_or_default();
    assert!(place.contains("tidelock.toml:5:12\n"), "{answer}");
    daemon.stop();
    let (code, said) = command(&config, &["status"]);
    assert!(
        code == 2 && said.contains("cannot be read"),
        "without a daemon they are needed: {said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_answers_one_document_if_asked_for_json() {
    let (a, b) = (super::postgres().await, super::mysql().await);
    let folder = tempfile::tempdir().expect("folder");
    let systems = [("a", a.url("db")), ("b", b.url("db"))];
    let text = super::config(folder.path(), &systems, &[("a", "b")]);
    // So that nothing is said of it beside the answers.
    let ours = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(folder.path(), ours).expect("permissions");
    let daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    let config = folder.path().join("tidelock.toml");
    let asked = |args: &[&str], wanted: i32| -> Value {
        let (code, said, beside) = apart(&config, &[args, &["--json"]].concat());
        assert!(code == wanted && beside.is_empty(), "{args:?}: {code} {said} {beside}");
        let answer: Value = serde_json::from_str(&said).expect("one document");
        assert_eq!(answer["ok"], wanted == 0, "{answer}");
        answer
    };
    assert_eq!(asked(&["pause", "a:b"], 0)["done"], "paused a:b");
    assert_eq!(asked(&["resume"], 0)["done"], "resumed a:b");
    daemon.streaming().await;
    asked(&["backfill", "item"], 0);
    asked(&["resync", "item"], 0);
    asked(&["reload"], 0);
    for refused in [["pause", "nothing"], ["backfill", "nothing"], ["resync", "nothing"]] {
        let error = asked(&refused, 2)["error"].clone();
        assert_eq!(error["code"], "TL0012", "{error}");
        for key in ["message", "hint", "place"] {
            assert!(error[key].is_string(), "{key}: {error}");
        }
        let (_, said, beside) = apart(&config, &refused);
        assert!(said.is_empty() && beside.starts_with("error[TL0012]"), "{said} {beside}");
    }
    std::fs::write(&config, text.replace("b.item", "b.missing")).expect("config");
    let found = asked(&["reload"], 1);
    assert_eq!(found["failed"][0]["flow"], "a:b", "{found}");
    std::fs::write(&config, &text).expect("config");
    assert_eq!(asked(&["drop"], 2)["error"]["message"], "the daemon is running");

    // One document after the other, and nothing between them.
    let mut watching = Command::new(env!("CARGO_BIN_EXE_tidelock"))
        .args(["status", "--watch", "--json", "-c"])
        .arg(&config)
        .stdout(Stdio::piped())
        .spawn()
        .expect("tidelock");
    let lines = BufReader::new(watching.stdout.take().expect("output")).lines();
    for line in lines.take(2) {
        let line = line.expect("line");
        let status: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"));
        assert_eq!(status["name"], "test");
    }
    watching.kill().expect("kill");
    watching.wait().expect("wait");

    daemon.stop();
    assert_eq!(asked(&["pause"], 0)["daemon"], false);
    asked(&["reload"], 2);
    let dropped = asked(&["drop"], 0);
    assert!(dropped["removed"].as_array().is_some_and(|r| r.len() >= 2), "{dropped}");
    std::fs::write(&config, "version = 1\nnam = 5\n").expect("config");
    let error = asked(&["pause"], 2)["error"].clone();
    assert!(error["place"].as_str().is_some_and(|p| p.contains("tidelock.toml:2:1\n")), "{error}");
}

/// A command line that says nothing is answered in the form that was asked for.
#[test]
fn a_wrong_command_line_is_one_json_document_where_json_is_asked_for() {
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_tidelock")).args(args).output().expect("run");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    for args in [
        &["status", "--json", "--wach"][..],
        &["--json", "stauts"],
        &["backfill", "--json"],
        &["map", "test", "m", "--rows", "0", "--json"],
        &["check", "--exposure", "--explain", "m", "--json"],
        &["--json"],
    ] {
        let (code, said, complained) = run(args);
        assert_eq!((code, complained.as_str()), (Some(2), ""), "{args:?}: {said}");
        let answer: Value = serde_json::from_str(&said).expect("one document");
        assert_eq!((&answer["ok"], &answer["error"]["code"]), (&false.into(), &"TL0013".into()));
        let message = answer["error"]["message"].as_str().expect("message");
        let hint = answer["error"]["hint"].as_str().expect("hint");
        assert!(!message.starts_with("error") && !message.is_empty(), "{message}");
        assert!(hint.contains("--help"), "{hint}");
    }
    let (code, said, complained) = run(&["status", "--wach"]);
    assert!(code == Some(2) && said.is_empty() && complained.contains("--watch"), "{complained}");
    let (code, said, _) = run(&["--json", "status", "--help"]);
    assert!(code == Some(0) && said.contains("--watch"), "{said}");
}
