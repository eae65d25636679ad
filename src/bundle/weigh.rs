//! Loading a policy with the native engine: proves each kernel that may hold its weights, measures them, and
//! takes the fastest.
//!
//! The golden vectors decide what is exact enough, before speed counts. Only `weights = "bf16"` leaves more
//! than one kernel; the rules of the choice are in [`escapement_native::choice`].

use super::golden::{Golden, Proof};
use super::load::on_a_thread;
use crate::policy::native::choice::{WeightCandidate, WeightChoice, allows_bf16, choose, measure};
use crate::policy::native::kernels::Precision;
use crate::policy::native::{Native, Refusal};
use crate::policy::{Policy, PolicyError, PolicyFile, Weights, Widths};
use escapement_policy::denormals::FlushDenormals;
use escapement_ring::clock::Clock;

/// A policy on the native engine, with the kernel that was chosen for its weights.
pub struct Weighed {
    /// The policy, in its initial state.
    pub policy: Native,
    /// The result of the golden vectors, or the first that does not agree. `None` if there are none.
    pub proof: Option<Result<Proof, String>>,
    /// The kernel and the measurements.
    pub choice: WeightChoice,
}

/// Lowers a policy for each kernel that `weights` leaves, proves each on the golden vectors, and takes the
/// fastest that agrees.
///
/// If bfloat16 weights are asked for and no kernel for them agrees, the policy has the fastest of these
/// kernels, and its proof is the vector that does not agree. Speed decides between precisions; it does not
/// replace a proof.
///
/// # Errors
/// Fails with [`PolicyError::Backend`] if the native engine itself fails, or if this processor does not have
/// the kernel. The inner result is what stopped the lowering.
pub fn weigh(
    file: &PolicyFile,
    golden: Option<&Golden>,
    weights: Weights,
    widths: Widths,
    clock: &(impl Clock + Sync),
) -> Result<Result<Weighed, Refusal>, PolicyError> {
    let policies = match file.lower_each(&weights.kernels(), widths)? {
        Ok(policies) => policies,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let weighed = on_a_thread(|| Ok(choose_among(policies, golden, weights, clock)));
    weighed.map(Ok).map_err(|reason| PolicyError::Backend { backend: "native", reason })
}

fn choose_among(
    mut policies: Vec<Native>,
    golden: Option<&Golden>,
    weights: Weights,
    clock: &impl Clock,
) -> Weighed {
    let prove = |policy: &mut Native| golden.map(|golden| golden.prove(policy));
    let mut proofs: Vec<_> = policies.iter_mut().map(prove).collect();
    let mut candidates: Vec<_> = policies
        .iter()
        .zip(&proofs)
        .map(|(policy, proof)| WeightCandidate {
            kernel: policy.weight_kernel(),
            ns: None,
            refused: proof.as_ref().and_then(|proof| proof.as_ref().err()).cloned(),
        })
        .collect();
    let chosen = match policies.len() {
        1 => 0,
        _ => {
            let zeros = || vec![0.0; policies[0].dimensions().observation];
            let observation =
                golden.and_then(|golden| golden.observations().next()).map_or_else(zeros, <[f32]>::to_vec);
            let _flush = FlushDenormals::enter();
            // A fault leaves the candidates without times. Then the preferred one that agrees is taken.
            if let Ok(times) = measure(&mut policies, &observation, || clock.now().0) {
                candidates.iter_mut().zip(times).for_each(|(candidate, ns)| candidate.ns = Some(ns));
            }
            pick(&candidates, weights)
        }
    };
    let choice = WeightChoice {
        kernel: candidates[chosen].kernel,
        candidates: if candidates.len() > 1 { candidates } else { Vec::new() },
    };
    Weighed { policy: policies.swap_remove(chosen), proof: proofs.swap_remove(chosen), choice }
}

/// Returns the index of the candidate that serves, or of the one whose refusal is reported.
fn pick(candidates: &[WeightCandidate], weights: Weights) -> usize {
    if weights.are_rounded() && !allows_bf16(candidates) {
        let rounded = |candidate: &WeightCandidate| candidate.kernel.precision() == Precision::Bf16;
        let ns = |index: &usize| candidates[*index].ns.unwrap_or(f64::INFINITY);
        let fastest = (0..candidates.len()).filter(|index| rounded(&candidates[*index]));
        return fastest.min_by(|a, b| ns(a).total_cmp(&ns(b))).unwrap_or(0);
    }
    let agrees = || candidates.iter().position(|candidate| candidate.refused.is_none());
    choose(candidates).or_else(agrees).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::native::kernels::WeightKernel;

    fn table(refused: [bool; 3], ns: [Option<f64>; 3]) -> Vec<WeightCandidate> {
        let kernels = [WeightKernel::F32Avx2, WeightKernel::Bf16Avx2, WeightKernel::Bf16Vdpbf16ps];
        let candidate = |index: usize| WeightCandidate {
            kernel: kernels[index],
            ns: ns[index],
            refused: refused[index].then(|| "golden vector 0".to_owned()),
        };
        (0..3).map(candidate).collect()
    }

    #[test]
    fn speed_decides_only_among_kernels_that_agree() {
        let times = [Some(300.0), Some(200.0), Some(100.0)];
        for (refused, expected) in [
            ([false, false, false], 2),
            ([false, false, true], 1),
            ([true, false, false], 2),
            // No bfloat16 kernel agrees: the fastest of them is reported as refused.
            ([false, true, true], 2),
        ] {
            assert_eq!(pick(&table(refused, times), Weights::Bf16), expected, "{refused:?}");
        }
        assert_eq!(pick(&table([false; 3], [None; 3]), Weights::Bf16), 0);
        assert_eq!(pick(&table([true, true, false], [None; 3]), Weights::Bf16), 2);
    }
}
