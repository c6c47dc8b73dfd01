// SPDX-License-Identifier: GPL-2.0-only
//! Checks a configuration as the daemons do when they start, before they do: the file, this node's
//! place in it, and what each fence agent says of the methods. Starts nothing but `-o metadata` of
//! the agents.

use std::io::Write;
use std::path::Path;

use cluster_rt::config;
use cluster_rt::config::Config;
use cluster_rt::config::LoadError;
use fence_agent::Complaint;
use fence_agent::Plan;
use serde::Serialize;

/// What came of it.
#[derive(Debug, Serialize)]
pub(crate) struct Checked {
    /// The file.
    file: String,
    /// What is wrong, by line; empty if nothing is.
    errors: Vec<Mistake>,
    /// What was checked.
    nodes: usize,
    devices: usize,
    /// Agents that were asked and answered.
    agents: Vec<String>,
}

/// Something wrong, and what to do about it.
#[derive(Debug, Serialize)]
struct Mistake {
    /// From 1; 0 if it is about no line.
    line: usize,
    message: String,
}

impl From<Complaint> for Mistake {
    fn from(Complaint { line, message }: Complaint) -> Self {
        Self { line, message }
    }
}

impl Checked {
    pub(crate) fn is_good(&self) -> bool {
        self.errors.is_empty()
    }

    fn failed(file: &Path, errors: Vec<Mistake>) -> Self {
        Self {
            file: file.display().to_string(),
            errors,
            nodes: 0,
            devices: 0,
            agents: Vec::new(),
        }
    }
}

/// Checks a file. `name`: of this node, instead of the host's.
pub(crate) fn check(file: &Path, name: Option<&str>) -> std::io::Result<Checked> {
    let config = match config::load(file) {
        Ok(config) => config,
        Err(error) => return Ok(Checked::failed(file, mistakes(error))),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let plan = runtime.block_on(async {
        let mut plan = Plan::of_checker(&config);
        plan.ask_agents().await;
        plan
    });
    // An agent that does not end is not waited for.
    runtime.shutdown_background();
    Ok(checked(file, &config, name, plan))
}

fn checked(file: &Path, config: &Config, name: Option<&str>, plan: Plan) -> Checked {
    let stranger = config.local_node(name).err();
    let stranger = stranger.map(|error| Mistake {
        line: 0,
        message: error.to_string(),
    });
    let complaints = plan.complaints.into_iter().map(Mistake::from);
    Checked {
        file: file.display().to_string(),
        errors: stranger.into_iter().chain(complaints).collect(),
        nodes: config.nodes.len(),
        devices: config.fence_devices.len(),
        agents: plan.known.into_keys().collect(),
    }
}

fn mistakes(error: LoadError) -> Vec<Mistake> {
    match error {
        LoadError::Mistakes { mistakes, .. } => {
            let mistakes = mistakes.into_iter();
            let mistakes = mistakes.map(|mistake| Mistake {
                line: mistake.line,
                message: mistake.message,
            });
            mistakes.collect()
        }
        error @ (LoadError::Read { .. } | LoadError::Open { .. }) => vec![Mistake {
            line: 0,
            message: error.to_string(),
        }],
    }
}

/// For people: a line for each mistake, or one that says that there is none.
pub(crate) fn render(out: &mut impl Write, checked: &Checked) -> std::io::Result<()> {
    let Checked {
        file,
        errors,
        nodes,
        devices,
        agents,
    } = checked;
    for Mistake { line, message } in errors {
        match line {
            0 => writeln!(out, "{file}: {message}")?,
            line => writeln!(out, "{file}:{line}: {message}")?,
        }
    }
    if !errors.is_empty() {
        return Ok(());
    }
    let agents = match agents.len() {
        0 => "no agents".to_owned(),
        _ => format!("agents {}", agents.join(", ")),
    };
    writeln!(
        out,
        "{file}: good; nodes: {nodes}, fence devices: {devices}, {agents}"
    )
}
