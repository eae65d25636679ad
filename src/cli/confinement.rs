//! Where a command may run code from a policy's file: on a thread that gives up its access to files first,
//! like the daemon's. A person who inspects a policy does not trust it yet.

use super::exit::{ExitCode, Failure};
use crate::bundle::{LoadError, Sandbox, Served, Verified, load, needs_sandbox};
use crate::policy::{Execution, Widths};

/// What happens where a thread cannot be confined.
#[derive(Debug, clap::Args)]
pub(super) struct Confinement {
    /// Run libtorch also where the kernel cannot take its access to files away (Landlock, Linux 5.13)
    #[arg(long)]
    allow_unsandboxed_torch: bool,
}

/// Loads policies on the thread that [`Confinement::run`] provides.
#[derive(Clone, Copy)]
pub(super) struct Loader {
    execution: Execution,
    sandbox: Sandbox,
}

impl Loader {
    /// Loads a policy. The calling thread may have no access to files afterwards.
    pub(super) fn load<'a>(
        &self,
        policy: impl Into<Verified<'a>>,
        widths: Widths,
    ) -> Result<Served, Failure> {
        load(policy, self.execution, widths, self.sandbox).map_err(|error| match error {
            LoadError::Unconfined(_) => {
                let message = format!("{error}; --allow-unsandboxed-torch runs it all the same");
                Failure::new(ExitCode::Permission, message)
            }
            LoadError::Bundle(error) => error.into(),
        })
    }
}

impl Confinement {
    /// Does `work`, which loads policies and calls them. Where one of them may be libtorch, `work` runs on a
    /// thread of its own, which cannot open files: the caller reads what it needs before, and writes what it
    /// makes after.
    pub(super) fn run<T: Send>(
        &self,
        execution: Execution,
        work: impl FnOnce(Loader) -> Result<T, Failure> + Send,
    ) -> Result<T, Failure> {
        let allow_unconfined = self.allow_unsandboxed_torch;
        let loader = Loader { execution, sandbox: Sandbox::Thread { allow_unconfined, tell: |_, _| () } };
        if !needs_sandbox(execution) {
            return work(loader);
        }
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("confined".to_owned());
            let thread = thread.spawn_scoped(scope, move || work(loader));
            match thread.map(std::thread::ScopedJoinHandle::join) {
                Ok(Ok(result)) => result,
                Ok(Err(panic)) => std::panic::resume_unwind(panic),
                Err(error) => {
                    Err(Failure::new(ExitCode::Temporary, format!("a thread for the policy: {error}")))
                }
            }
        })
    }
}
