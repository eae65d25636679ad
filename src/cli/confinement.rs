//! Where a command may run code out of a policy's file: on a thread that has given up the filesystem first, as the
//! daemon's do. Who asks about a policy does not trust it yet.

use super::exit::{ExitCode, Failure};
use crate::os::forbid_files;
use crate::policy::{Backend, Execution};

/// What is to happen where a thread cannot be confined.
#[derive(Debug, clap::Args)]
pub(super) struct Confinement {
    /// Run libtorch also where the kernel cannot take its access to files away (Landlock, Linux 5.13)
    #[arg(long)]
    allow_unsandboxed_torch: bool,
}

impl Confinement {
    /// Does `work` with what runs the policy. Where that may be libtorch, it is done on a thread of its own that opens no file any
    /// more: what it needs has been read before, and what it makes is written after. Without a sandbox `auto` has the
    /// native engine left, which runs nothing from the file.
    pub(super) fn run<T: Send>(
        &self,
        execution: Execution,
        work: impl FnOnce(Execution) -> Result<T, Failure> + Send,
    ) -> Result<T, Failure> {
        let execution = execution.settled();
        if !cfg!(feature = "torch") || !matches!(execution.backend, Backend::Torch | Backend::Auto) {
            return work(execution);
        }
        let confined = move || match (forbid_files(), execution.backend) {
            (Ok(()), _) => work(execution),
            (Err(_), _) if self.allow_unsandboxed_torch => work(execution),
            (Err(_), Backend::Auto) => work(Execution { backend: Backend::Native, ..execution }),
            (Err(reason), _) => Err(Failure::new(
                ExitCode::Permission,
                format!(
                    "backend torch is refused, since it cannot be confined: {reason}; --allow-unsandboxed-torch runs \
                     it all the same"
                ),
            )),
        };
        std::thread::scope(|scope| {
            let thread =
                std::thread::Builder::new().name("confined".to_owned()).spawn_scoped(scope, confined);
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
