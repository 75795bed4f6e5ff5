//! Lines, tables and ratios from the runs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use crate::Outcome;
use crate::lane::Run;
use crate::latency::Latency;
use crate::plot::{Bars, draw_bars};
use crate::workload::title;

/// A run in a line, as it ends.
pub fn line(run: &Run) -> String {
    let [source, engine, user, target, all] = run.cpu();
    format!(
        "{} {} #{} {:<18} {:6.2} s {:>9} rows/s | CPU s a million rows: source {source:5.2} engine {engine:5.2} (user {user:4.2}) \
         target {target:6.2} all {all:6.2} | peak {:3.0} MB | others {:2.0} %",
        run.pair,
        run.workload,
        run.repeat + 1,
        run.lane,
        run.seconds,
        grouped(run.rate()),
        run.peak_mb,
        run.foreign * 100.0
    )
}

/// 1234567 as 1,234,567.
pub fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

/// The medians of one lane.
pub struct Lane<'a> {
    pub name: &'a str,
    pub rate: f64,
    pub cpu: [f64; 5],
    pub peak_mb: f64,
    pub foreign: f64,
}

pub type Lanes<'a> = BTreeMap<(&'a str, char), Vec<Lane<'a>>>;

/// By pair and workload, in the order of the first run.
pub fn medians(runs: &[Run]) -> Lanes<'_> {
    type Runs<'a> = Vec<(&'a str, Vec<&'a Run>)>;
    let mut of: BTreeMap<(&str, char), Runs<'_>> = BTreeMap::new();
    for run in runs {
        let lanes = of.entry((&run.pair, run.workload)).or_default();
        match lanes.iter_mut().find(|(name, _)| *name == run.lane) {
            Some((_, runs)) => runs.push(run),
            None => lanes.push((&run.lane, vec![run])),
        }
    }
    let lane = |(name, runs): (_, Vec<&Run>)| Lane {
        name,
        rate: median(runs.iter().map(|r| r.rate())),
        cpu: std::array::from_fn(|i| median(runs.iter().map(|r| r.cpu()[i]))),
        peak_mb: median(runs.iter().map(|r| r.peak_mb)),
        foreign: median(runs.iter().map(|r| r.foreign)),
    };
    of.into_iter()
        .map(|(key, mut lanes)| {
            lanes.sort_by_key(|(name, _)| !is_reference(name));
            (key, lanes.into_iter().map(lane).collect())
        })
        .collect()
}

fn is_reference(lane: &str) -> bool {
    lane.starts_with("native") || lane.contains(" limit")
}

pub fn pair_title(pair: &str) -> &'static str {
    match pair {
        "pp" => "PostgreSQL to PostgreSQL",
        "mm" => "MariaDB to MariaDB",
        "pm" => "PostgreSQL to MariaDB",
        _ => "MariaDB to PostgreSQL",
    }
}

/// What tidelock is held against: the faster of the server's own lanes, the slower of the two limits.
fn reference<'a, 'b>(lanes: &'a [Lane<'b>]) -> Option<&'a Lane<'b>> {
    let native = lanes.iter().filter(|lane| lane.name.starts_with("native"));
    let limits = lanes.iter().filter(|lane| lane.name.ends_with("limit"));
    native
        .max_by(|a, b| a.rate.total_cmp(&b.rate))
        .or_else(|| limits.min_by(|a, b| a.rate.total_cmp(&b.rate)))
}

/// The tables, ready to be pasted.
pub fn markdown(runs: &[Run]) -> String {
    let mut out = String::new();
    let mut last = "";
    let medians = medians(runs);
    for ((pair, letter), lanes) in &medians {
        if last != *pair {
            last = pair;
            let _ = write!(
                out,
                "\n### {}\n\n| workload | lane | rows/s | ratio | CPU s/M rows: source | engine (own code) | target | all | ratio | peak RSS | others' share |\n\
                 |---|---|---|---|---|---|---|---|---|---|---|\n",
                pair_title(pair)
            );
        }
        let held = reference(lanes);
        for (i, lane) in lanes.iter().enumerate() {
            let [source, engine, user, target, all] = lane.cpu;
            let (mut rate_ratio, mut cpu_ratio) = (String::new(), String::new());
            if let (Some(held), false) = (held, is_reference(lane.name)) {
                rate_ratio = format!("**{:.2}**", lane.rate / held.rate);
                if held.name.starts_with("native") {
                    cpu_ratio = format!("**{:.2}**", all / held.cpu[4]);
                }
            }
            let engine =
                if engine > 0.0 { format!("{engine:.2} ({user:.2})") } else { String::new() };
            let peak =
                if lane.peak_mb > 0.0 { format!("{:.0} MB", lane.peak_mb) } else { String::new() };
            let _ = writeln!(
                out,
                "| {} | {} | {} | {rate_ratio} | {source:.2} | {engine} | {target:.2} | {all:.2} | {cpu_ratio} | {peak} | {:.0} % |",
                if i == 0 { title(*letter) } else { "" },
                lane.name,
                grouped(lane.rate),
                lane.foreign * 100.0
            );
        }
    }
    out
}

/// Commit to visible, as a table.
fn latency_table(latencies: &[Latency]) -> String {
    let mut out = String::from(
        "\n### Commit to visible, milliseconds\n\n| pair | lane | 200/s p50 | p99 | max | 1,000/s p50 | p99 | max | p99 at 1,000/s: times native |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    let of = |pair: &str, lane: &str, rate: u64, what: fn(&Latency) -> f64| {
        median(
            latencies
                .iter()
                .filter(|l| l.pair == pair && l.lane == lane && l.rate == rate)
                .map(what),
        )
    };
    let mut lanes: Vec<(&str, &str)> = Vec::new();
    for latency in latencies {
        let lane = (latency.pair.as_str(), latency.lane.as_str());
        if !lanes.contains(&lane) {
            lanes.push(lane);
        }
    }
    for (pair, lane) in &lanes {
        let native = lanes
            .iter()
            .filter(|(other, name)| other == pair && name.starts_with("native"))
            .map(|(_, name)| of(pair, name, 1_000, |l| l.p99))
            .fold(f64::INFINITY, f64::min);
        let _ = write!(out, "| {} | {lane} |", pair_title(pair));
        for rate in [200, 1_000] {
            let what: [fn(&Latency) -> f64; 3] = [|l| l.p50, |l| l.p99, |l| l.max];
            for what in what {
                let _ = write!(out, " {:.2} |", of(pair, lane, rate, what));
            }
        }
        if native.is_finite() && !is_reference(lane) {
            let _ = write!(out, " **{:.2}**", of(pair, lane, 1_000, |l| l.p99) / native);
        }
        out.push_str(" |\n");
    }
    out
}

/// Prints the tables, and keeps everything in the folder.
pub fn write(runs: &[Run], latencies: &[Latency], out: Option<&Path>) -> Outcome {
    let mut tables = markdown(runs);
    if !latencies.is_empty() {
        tables.push_str(&latency_table(latencies));
    }
    println!("{tables}");
    if let Some(folder) = out {
        std::fs::create_dir_all(folder)?;
        let all = serde_json::json!({ "runs": runs, "latencies": latencies });
        std::fs::write(folder.join("results.json"), serde_json::to_vec_pretty(&all)?)?;
        std::fs::write(folder.join("results.md"), tables)?;
        plot(runs, folder)?;
    }
    Ok(())
}

/// Rows a second and CPU by role, a panel for each pairing.
fn plot(runs: &[Run], folder: &Path) -> Outcome {
    let medians = medians(runs);
    let mut pairs: Vec<&str> = medians.keys().map(|(pair, _)| *pair).collect();
    pairs.dedup();
    let (mut rates, mut costs) = (Vec::new(), Vec::new());
    for pair in pairs {
        let of: Vec<_> = medians.iter().filter(|((p, _), _)| *p == pair).collect();
        let names = |keep: fn(&str) -> bool| -> Vec<String> {
            of.first()
                .map(|(_, lanes)| {
                    lanes.iter().map(|l| l.name).filter(|n| keep(n)).map(str::to_owned).collect()
                })
                .unwrap_or_default()
        };
        let bars = |names: Vec<String>,
                    unit: &str,
                    parts: &[&str],
                    what: fn(&Lane<'_>) -> Vec<f64>| Bars {
            title: pair_title(pair).to_owned(),
            unit: unit.to_owned(),
            groups: of.iter().map(|((_, letter), _)| letter.to_string()).collect(),
            values: of
                .iter()
                .map(|(_, lanes)| {
                    let value = |name: &String| {
                        lanes.iter().find(|l| l.name == name).map(what).unwrap_or_default()
                    };
                    names.iter().map(value).collect()
                })
                .collect(),
            bars: names,
            parts: parts.iter().map(|p| (*p).to_owned()).collect(),
        };
        rates.push(bars(names(|_| true), "rows/s", &["rows/s"], |lane| vec![lane.rate]));
        // A limit is one side only: its cost compares with nothing.
        costs.push(bars(
            names(|name| !name.ends_with("limit")),
            "CPU s a million rows (n native, t tidelock)",
            &["source", "engine", "target"],
            |lane| vec![lane.cpu[0], lane.cpu[1], lane.cpu[3]],
        ));
    }
    draw_bars(&folder.join("benchmarks-rates.svg"), &rates)?;
    draw_bars(&folder.join("benchmarks-cpu.svg"), &costs)
}
