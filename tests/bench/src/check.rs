//! Compares the instructions per request, counted by callgrind, with committed figures.
//! Instructions, unlike times, are the same on a busy machine.
//!
//! Server and proxy run on one core each, and one connection sends the same token repeatedly. Each
//! run includes the start and the end of the processes. Therefore the figure is the difference
//! between a long run and a short one, divided by the difference of their requests. Callgrind shows
//! programs a CPU without AVX-512. The same code runs if that CPU has the same features as the one
//! of the committed figures.

use std::{
    collections::BTreeMap,
    env, fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::{contender::World, load::Caller, machine};

/// The numbers of requests of the two runs. They are large enough that events at the start or on a
/// timer do not matter.
const FEW: usize = 200;
const MANY: usize = 4_200;
/// The check fails if a figure differs from the committed one by more than this share.
const TOLERANCE: f64 = 0.05;
/// The path of the committed figures, from the package.
const COMMITTED: &str = "instructions.json";

/// CPU features that callgrind passes on and by which libraries choose their code.
const FEATURES: [&str; 13] = [
    "aes",
    "avx",
    "avx2",
    "bmi1",
    "bmi2",
    "f16c",
    "fma",
    "movbe",
    "pclmulqdq",
    "rdrand",
    "rdseed",
    "sse4_2",
    "ssse3",
];

/// Counts instructions per request.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Counts {
    server: f64,
    proxy: f64,
}

/// The conditions under which instructions were counted.
#[derive(Debug, PartialEq)]
struct Conditions {
    /// Another CPU runs other code, so that its figures cannot be compared.
    cpu: String,
    /// Other versions of these tools compile or count differently.
    tools: BTreeMap<String, String>,
}

/// Counts, and then compares with the committed figures or replaces them.
pub(crate) async fn run(update: bool) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(COMMITTED);
    let here = Conditions::here().await?;
    if !update {
        // Checks this first, because to count takes a minute.
        if let Err(error) = comparable(&read(&path)?.1, &here) {
            println!("skipped: {error}");
            return Ok(());
        }
    }
    let counts = count().await?;
    println!("instructions per request: {counts}");
    if update {
        fs::write(&path, format!("{:#}\n", to_json(counts, &here)))?;
        println!("written to {}", path.display());
        return Ok(());
    }
    let (committed, _) = read(&path)?;
    println!("committed:                {committed}");
    compare(committed, counts)
}

async fn count() -> Result<Counts> {
    let few = totals(FEW).await?;
    let many = totals(MANY).await?;
    let per_request = |few: u64, many: u64| (many as f64 - few as f64) / (MANY - FEW) as f64;
    Ok(Counts {
        server: per_request(few[0], many[0]),
        proxy: per_request(few[1], many[1]),
    })
}

/// Counts all instructions of server and proxy for `requests`, from their start to their end.
async fn totals(requests: usize) -> Result<[u64; 2]> {
    let valgrind = env::var_os("VALGRIND").filter(|path| !path.is_empty());
    let valgrind = PathBuf::from(valgrind.context("valgrind is missing")?);
    let world = World::new().await?.without_sandbox();
    eprintln!("{requests} requests under callgrind");
    let (running, counts) = world.start_counted(&valgrind).await?;
    let token = world.token();
    Caller::new(running.port)
        .each_token(vec![token; requests].into(), 1)
        .await?;
    running.end().await?;
    let [server, proxy] = counts.map(|path| {
        let text = fs::read_to_string(path)?;
        total(&text).context("callgrind wrote no total")
    });
    Ok([server?, proxy?])
}

/// Returns the total of a callgrind profile with one event: `totals: 123456`.
fn total(profile: &str) -> Option<u64> {
    let total = |line: &str| line.strip_prefix("totals: ")?.trim().parse().ok();
    profile.lines().find_map(total)
}

impl Conditions {
    async fn here() -> Result<Self> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
        let mut tools = BTreeMap::new();
        let valgrind = env::var("VALGRIND").unwrap_or_default();
        for (name, program) in [("rustc", "rustc"), ("valgrind", valgrind.as_str())] {
            let version = machine::version(program, "--version").await;
            tools.insert(name.to_owned(), version.unwrap_or_default());
        }
        Ok(Self {
            cpu: format!("{}: {}", env::consts::ARCH, features(&cpuinfo)),
            tools,
        })
    }
}

/// Returns those of [`FEATURES`] that the CPU has.
fn features(cpuinfo: &str) -> String {
    let flags = cpuinfo.lines().find_map(|line| line.strip_prefix("flags"));
    let flags: Vec<_> = flags.unwrap_or_default().split_whitespace().collect();
    let has = |feature: &&str| flags.contains(feature);
    FEATURES
        .into_iter()
        .filter(has)
        .collect::<Vec<_>>()
        .join(" ")
}

fn comparable(there: &Conditions, here: &Conditions) -> Result<()> {
    ensure!(
        there == here,
        "can't compare: the committed figures are for\n  {} {:?}\nand this machine has\n  {} {:?}\n\
         compare with the parent commit: run scripts/bench.sh --check --update there, then --check here",
        there.cpu,
        there.tools,
        here.cpu,
        here.tools
    );
    Ok(())
}

/// Fails if a figure is too far above or below the committed one.
fn compare(committed: Counts, counted: Counts) -> Result<()> {
    let far: Vec<_> = [
        ("server", committed.server, counted.server),
        ("proxy", committed.proxy, counted.proxy),
    ]
    .into_iter()
    .filter(|(_, committed, counted)| (counted / committed - 1.0).abs() > TOLERANCE)
    .map(|(name, committed, counted)| {
        let change = (counted / committed - 1.0) * 100.0;
        format!("{name}: {counted:.0} instead of {committed:.0} ({change:+.1} %)")
    })
    .collect();
    if far.is_empty() {
        return Ok(());
    }
    bail!(
        "instructions per request changed by more than {:.0} %: {}\n\
         If this is intended, run scripts/bench.sh --check --update",
        TOLERANCE * 100.0,
        far.join(", ")
    );
}

fn read(path: &Path) -> Result<(Counts, Conditions)> {
    let text = fs::read_to_string(path).context("no committed figures: add --update first")?;
    from_json(&serde_json::from_str(&text)?).context("the committed figures cannot be read")
}

fn to_json(counts: Counts, conditions: &Conditions) -> Value {
    json!({
        "instructions_per_request": {
            "server": counts.server.round(),
            "proxy": counts.proxy.round(),
        },
        "cpu": conditions.cpu,
        "tools": conditions.tools,
    })
}

fn from_json(value: &Value) -> Option<(Counts, Conditions)> {
    let counts = &value["instructions_per_request"];
    let counts = Counts {
        server: counts["server"].as_f64()?,
        proxy: counts["proxy"].as_f64()?,
    };
    let tool = |(name, version): (&String, &Value)| Some((name.clone(), version.as_str()?.into()));
    let conditions = Conditions {
        cpu: value["cpu"].as_str()?.to_owned(),
        tools: value["tools"]
            .as_object()?
            .iter()
            .filter_map(tool)
            .collect(),
    };
    Some((counts, conditions))
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "server {:.0}, proxy {:.0}", self.server, self.proxy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conditions(cpu: &str) -> Conditions {
        Conditions {
            cpu: cpu.to_owned(),
            tools: BTreeMap::from([("rustc".to_owned(), "1.88.0".to_owned())]),
        }
    }

    #[test]
    fn figure_that_differs_by_more_than_five_percent_fails() {
        let counts = |server, proxy| Counts { server, proxy };
        let committed = counts(1_000.0, 2_000.0);
        compare(committed, counts(1_049.0, 1_901.0)).unwrap();
        let error = compare(committed, counts(1_051.0, 2_000.0)).unwrap_err();
        assert!(
            error.to_string().contains("server: 1051 instead of 1000"),
            "{error}"
        );
        assert!(!error.to_string().contains("proxy:"), "{error}");
        let error = compare(committed, counts(1_000.0, 1_800.0)).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("proxy: 1800 instead of 2000 (-10.0 %)"),
            "{error}"
        );
    }

    #[test]
    fn figures_of_another_cpu_are_not_compared() {
        comparable(&conditions("x86_64: avx2"), &conditions("x86_64: avx2")).unwrap();
        let error = comparable(&conditions("x86_64: avx2"), &conditions("aarch64: ")).unwrap_err();
        assert!(error.to_string().starts_with("can't compare"), "{error}");
    }

    #[test]
    fn only_features_that_choose_code_are_read() {
        let cpuinfo = "processor : 0\nflags\t\t: fpu avx2 avx avx512f aes\n";
        assert_eq!(features(cpuinfo), "aes avx avx2");
        assert_eq!(features("Features : asimd"), "");
    }

    #[test]
    fn total_of_a_profile_is_read() {
        assert_eq!(total("events: Ir\nfn=(1)\n1 2\ntotals: 4711\n"), Some(4711));
        assert_eq!(total("events: Ir\n"), None);
    }

    #[test]
    fn committed_figures_can_be_read_again() {
        let counts = Counts {
            server: 40_000.0,
            proxy: 60_000.0,
        };
        let json = to_json(counts, &conditions("x86_64: avx2"));
        assert_eq!(from_json(&json), Some((counts, conditions("x86_64: avx2"))));
        assert_eq!(from_json(&json!({})), None);
    }
}
