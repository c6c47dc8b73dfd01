// SPDX-License-Identifier: GPL-2.0-only
//! What the agent was asked to do: from standard input or the command line.

use std::io::BufRead;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use anyhow::bail;
use clap::Parser;
use clap::ValueEnum;

/// Where a guest finds the switch unless told otherwise.
pub(crate) const MONITOR: &str = "/dev/virtio-ports/conclave.power";

/// Default time limit of one request, seconds. A reset is confirmed within a
/// second; a host under load takes longer.
pub(crate) const POWER_TIMEOUT_S: u64 = 20;

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Action {
    On,
    Off,
    Reboot,
    Status,
    Monitor,
    List,
    Metadata,
    ValidateAll,
}

/// Fence agent for virtual machines with a power switch on their host.
#[derive(Debug, Clone, Parser)]
#[command(name = "fence_vm", version)]
pub(crate) struct Options {
    /// What to do
    #[arg(
        short = 'o',
        long,
        value_enum,
        ignore_case = true,
        default_value = "reboot"
    )]
    pub(crate) action: Action,
    /// The machine to act on
    #[arg(short = 'n', long, value_name = "NAME")]
    plug: Option<String>,
    /// Character device or unix socket of the power switch
    #[arg(short = 'm', long, value_name = "PATH", default_value = MONITOR)]
    pub(crate) monitor: PathBuf,
    /// Seconds to wait for each answer
    #[arg(long, value_name = "SECONDS", default_value_t = POWER_TIMEOUT_S)]
    power_timeout: u64,
    /// Seconds to wait before acting
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    delay: u64,
}

impl Options {
    /// The machine to act on.
    pub(crate) fn plug(&self) -> anyhow::Result<&str> {
        self.plug
            .as_deref()
            .context("no machine named; give plug=NAME (or -n NAME)")
    }

    /// Time limit of one request.
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs(self.power_timeout)
    }

    /// Pause before acting.
    pub(crate) fn delay(&self) -> Duration {
        Duration::from_secs(self.delay)
    }
}

/// Reads the options from wherever they are.
pub(crate) fn read() -> anyhow::Result<Options> {
    if std::env::args_os().len() > 1 {
        return Ok(Options::parse());
    }
    let lines: Result<Vec<String>, _> = std::io::stdin().lock().lines().collect();
    parse(&lines.context("reading options from standard input")?)
}

/// Parses `name=value` lines. The last of equal names wins; unknown names are
/// warned about and ignored, because callers send more than one agent knows.
fn parse(lines: &[String]) -> anyhow::Result<Options> {
    let mut options = Options::parse_from(["fence_vm"]);
    let mut nodename = None;
    for line in lines {
        let line = line.trim_end_matches('\r');
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, value)) = line.split_once('=') else {
            bail!("option line {line:?} is not name=value");
        };
        let value = unquoted(value);
        match name.replace('-', "_").as_str() {
            "action" | "option" => options.action = action(value)?,
            "plug" | "port" => options.plug = Some(value.to_owned()),
            "nodename" => nodename = Some(value.to_owned()),
            "monitor" => options.monitor = value.into(),
            "power_timeout" => options.power_timeout = seconds(name, value)?,
            "delay" => options.delay = seconds(name, value)?,
            // What fenced, dlm_controld and pacemaker add to every call.
            "agent" | "node" | "fail_time" | "verbose" => {}
            _ => eprintln!("fence_vm: option {name:?} is not known and ignored"),
        }
    }
    options.plug = options.plug.or(nodename);
    Ok(options)
}

fn action(value: &str) -> anyhow::Result<Action> {
    let value = if value.eq_ignore_ascii_case("meta-data") {
        "metadata"
    } else {
        value
    };
    Action::from_str(value, true).map_err(|_| {
        let names: Vec<String> = Action::value_variants()
            .iter()
            .filter_map(ValueEnum::to_possible_value)
            .map(|value| value.get_name().to_owned())
            .collect();
        anyhow::anyhow!("action {value:?} is not one of {}", names.join(", "))
    })
}

fn seconds(name: &str, value: &str) -> anyhow::Result<u64> {
    value
        .parse()
        .with_context(|| format!("option {name}: {value:?} is not a number of seconds"))
}

/// The value without one pair of surrounding double quotes.
fn unquoted(value: &str) -> &str {
    value
        .strip_prefix('"')
        .and_then(|value| value.strip_suffix('"'))
        .unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str) -> anyhow::Result<Options> {
        parse(&text.lines().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn lines_are_read_as_fence_callers_write_them() {
        let got = options(
            "# comment\n\nplug=n1\nagent=fence_vm\nnodename=other\nplug=\"n2\"\n\
             monitor=/run/a=b\npower-timeout=7\naction=OFF\nunheard_of=1\n",
        )
        .unwrap();
        assert_eq!(
            got.plug().unwrap(),
            "n2",
            "plug wins over nodename, the last over the first"
        );
        assert_eq!(got.monitor, PathBuf::from("/run/a=b"));
        assert_eq!(got.timeout(), Duration::from_secs(7));
        assert_eq!(got.action, Action::Off);
    }

    #[test]
    fn the_node_name_serves_when_no_plug_is_given_and_reboot_is_the_default() {
        let got = options("nodename=n3").unwrap();
        assert_eq!(got.plug().unwrap(), "n3");
        assert_eq!(got.action, Action::Reboot);
    }

    #[test]
    fn wrong_values_are_named() {
        let message = |text| format!("{:#}", options(text).unwrap_err());
        assert!(message("action=explode").contains("\"explode\" is not one of on, off, reboot"));
        assert!(message("power_timeout=soon").contains("power_timeout: \"soon\""));
        assert!(message("plug").contains("\"plug\" is not name=value"));
        assert!(options("").unwrap().plug().is_err());
    }
}
