// SPDX-License-Identifier: GPL-2.0-only
//! Threads that make the kernel calls, so that the daemon's loop never waits in
//! one and still answers while a stop takes its time.
//!
//! One thread per lockspace does that lockspace's jobs in order; one does what
//! is about nodes. A lockspace's job waits for the nodes' jobs that were given
//! before it: the module must know a member before it starts with it, and must
//! have forgotten a dead one before it stops.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::mpsc;

use dlm_controld_core::Start;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::mpsc::unbounded_channel;

use crate::kernel::Answered;
use crate::kernel::Kernel;
use crate::kernel::KernelError;
use crate::kernel::Members;

/// Work for one lockspace.
#[derive(Debug)]
pub(crate) enum Job {
    Stop,
    Start(Start),
    Answer(i32),
    Forget,
}

/// What a thread reports.
#[derive(Debug)]
pub(crate) enum Done {
    Stopped {
        lockspace: String,
    },
    Started {
        lockspace: String,
    },
    StartFailed {
        lockspace: String,
        error: KernelError,
    },
    /// An answer found nobody waiting, and the kernel has no such lockspace.
    NobodyWaited {
        lockspace: String,
    },
    /// Something that must not fail did.
    Failed {
        error: KernelError,
    },
}

/// Jobs about nodes that are done, out of those that were given.
#[derive(Default)]
struct Progress {
    done: Mutex<u64>,
    changed: Condvar,
}

impl Progress {
    fn advance(&self) {
        *self.done.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.changed.notify_all();
    }

    fn wait(&self, until: u64) {
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_while(done, |done| *done < until);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

/// The threads.
pub(crate) struct Workers {
    kernel: Arc<dyn Kernel>,
    nodes: mpsc::Sender<Members>,
    given: u64,
    progress: Arc<Progress>,
    lockspaces: BTreeMap<String, mpsc::Sender<(u64, Job)>>,
    reports: UnboundedSender<Done>,
}

impl Workers {
    /// Starts the nodes' thread.
    pub(crate) fn new(kernel: Arc<dyn Kernel>) -> std::io::Result<(Self, UnboundedReceiver<Done>)> {
        let (reports, done) = unbounded_channel();
        let (nodes, jobs) = mpsc::channel();
        let progress = Arc::new(Progress::default());
        let (one, two, three) = (kernel.clone(), progress.clone(), reports.clone());
        std::thread::Builder::new()
            .name("nodes".into())
            .spawn(move || serve_nodes(&*one, &jobs, &two, &three))?;
        let lockspaces = BTreeMap::new();
        Ok((
            Self {
                kernel,
                nodes,
                given: 0,
                progress,
                lockspaces,
                reports,
            },
            done,
        ))
    }

    /// Has the kernel told who is a member.
    pub(crate) fn set_members(&mut self, members: Members) {
        self.given += 1;
        // The thread ends only when this end of the channel is gone.
        let _ = self.nodes.send(members);
    }

    /// Gives a lockspace's thread a job; starts the thread with its first.
    pub(crate) fn give(&mut self, lockspace: &str, job: Job) -> std::io::Result<()> {
        if !self.lockspaces.contains_key(lockspace) {
            let (sender, jobs) = mpsc::channel();
            let (kernel, progress) = (self.kernel.clone(), self.progress.clone());
            let (reports, name) = (self.reports.clone(), lockspace.to_owned());
            std::thread::Builder::new()
                .name(format!("ls-{lockspace}"))
                .spawn(move || {
                    serve_lockspace(&*kernel, &name, &jobs, &progress, &reports);
                })?;
            self.lockspaces.insert(lockspace.to_owned(), sender);
        }
        if let Some(jobs) = self.lockspaces.get(lockspace) {
            let _ = jobs.send((self.given, job));
        }
        Ok(())
    }

    /// Lets the threads of lockspaces that are gone end after their last job.
    pub(crate) fn keep(&mut self, is_there: impl Fn(&str) -> bool) {
        self.lockspaces.retain(|name, _| is_there(name));
    }
}

fn serve_nodes(
    kernel: &dyn Kernel,
    jobs: &mpsc::Receiver<Members>,
    progress: &Progress,
    reports: &UnboundedSender<Done>,
) {
    for members in jobs {
        if let Err(error) = kernel.set_members(&members) {
            let _ = reports.send(Done::Failed { error });
        }
        progress.advance();
    }
}

fn serve_lockspace(
    kernel: &dyn Kernel,
    name: &str,
    jobs: &mpsc::Receiver<(u64, Job)>,
    progress: &Progress,
    reports: &UnboundedSender<Done>,
) {
    for (after, job) in jobs {
        progress.wait(after);
        if let Some(done) = work(kernel, name, job) {
            // Nobody listens any more when the daemon ends.
            let _ = reports.send(done);
        }
    }
}

fn work(kernel: &dyn Kernel, name: &str, job: Job) -> Option<Done> {
    let lockspace = name.to_owned();
    let done = match job {
        Job::Stop => kernel
            .stop(name)
            .map(|()| Some(Done::Stopped { lockspace })),
        Job::Start(start) => match kernel.start(&start) {
            Ok(()) => Ok(Some(Done::Started { lockspace })),
            Err(error) => Ok(Some(Done::StartFailed { lockspace, error })),
        },
        Job::Answer(result) => answer(kernel, name, result),
        Job::Forget => kernel.forget(name).map(|()| None),
    };
    done.unwrap_or_else(|error| Some(Done::Failed { error }))
}

/// Gives an answer. Here and not in the daemon's loop, because a look at the kernel waits for calls
/// of other lockspaces.
fn answer(kernel: &dyn Kernel, name: &str, result: i32) -> Result<Option<Done>, KernelError> {
    if kernel.answer(name, result)? == Answered::Taken {
        return Ok(None);
    }
    if kernel.lockspaces()?.iter().any(|found| found.name == name) {
        // An answer to a task that was killed came first: this lockspace of the same name took it,
        // or asked when that one had found nobody.
        tracing::info!(
            lockspace = name,
            "somebody else of that name had the answer"
        );
        return Ok(None);
    }
    let lockspace = name.to_owned();
    Ok(Some(Done::NobodyWaited { lockspace }))
}

#[cfg(test)]
mod tests;
