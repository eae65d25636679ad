//! The speed of the kernels on one pinned core, call by call, compared with what the core can load and
//! multiply.
//!
//! `cargo bench --bench kernels [-- --core N] [--calls N] [FILTER]`
//!
//! Each call is timed alone with the time stamp counter, fenced on both sides. The cost of an empty
//! measurement is printed and subtracted. The limits (fused multiply-adds, loads from the first and the
//! second cache level) are measured in the same run, so the fractions hold on a noisy machine too.
//!
//! A first table shows the choice between single precision and bfloat16 weights, forced to each instruction
//! set and with all of them: the times that the choice was made by, and the medians of calls in turns. The
//! chosen kernel is never slower than single precision. The filter `choice` prints only this table.

#[cfg(not(target_arch = "x86_64"))]
fn main() {
    eprintln!("benches/kernels.rs times with the x86 time stamp counter");
}

#[cfg(target_arch = "x86_64")]
fn main() {
    x86::main();
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::hint::black_box;

    use escapement::clock::{Clock, MonotonicClock};
    use escapement::denormals::FlushDenormals;
    use escapement::policy::native::choice::{WeightCandidate, choose, measure};
    use escapement::policy::native::kernels::{Activation, Dense, Isa, Lstm, Precision, WeightKernel};
    use escapement::policy::{Dimensions, Fault, Policy};

    use escapement::policy::native::kernels::CoreLimits;
    use escapement_test_support::timing::{Sample, Timer};

    /// One row of the table: a network, its amount of arithmetic, and a call of it.
    struct Row {
        name: String,
        multiply_adds: usize,
        weight_bytes: usize,
        call: Box<dyn FnMut()>,
    }

    /// Returns deterministic weights of the size that a trained layer has.
    fn weights(len: usize, fan_in: usize) -> Vec<f32> {
        let mut state = 0x9e37_79b9_7f4a_7c15u64 ^ len as u64;
        let scale = 1.0 / (fan_in as f32).sqrt();
        (0..len)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * scale
            })
            .collect()
    }

    /// Layers of these sizes, with the activation between them.
    fn layers(isa: Isa, precision: Precision, sizes: &[usize], activation: Activation) -> Vec<Dense> {
        sizes
            .windows(2)
            .enumerate()
            .map(|(i, pair)| {
                let last = i + 2 == sizes.len();
                let activation = if last { Activation::Identity } else { activation };
                let (inputs, outputs) = (pair[0], pair[1]);
                let bias = weights(outputs, inputs);
                Dense::pack(
                    isa,
                    precision,
                    &weights(inputs * outputs, inputs),
                    Some(&bias),
                    inputs,
                    outputs,
                    activation,
                )
            })
            .collect()
    }

    /// The same as a policy, for the choice of a kernel for its weights.
    struct Mlp {
        layers: Vec<Dense>,
        values: Vec<Vec<f32>>,
        dimensions: Dimensions,
    }

    impl Mlp {
        fn new(kernel: WeightKernel, sizes: &[usize], activation: Activation) -> Self {
            let isa = kernel.isa().expect("the kernel is one of this processor's");
            let dimensions = Dimensions { observation: sizes[0], action: sizes[sizes.len() - 1] };
            let values = sizes[1..sizes.len() - 1].iter().map(|&size| vec![0.0; size]).collect();
            Self { layers: layers(isa, kernel.precision(), sizes, activation), values, dimensions }
        }
    }

    impl Policy for Mlp {
        fn dimensions(&self) -> Dimensions {
            self.dimensions
        }

        fn backend(&self) -> &'static str {
            "native"
        }

        fn infer(&mut self, observation: &[f32], action: &mut [f32]) -> Result<(), Fault> {
            let last = self.layers.len() - 1;
            self.layers[0].run(black_box(observation), &mut self.values[0]);
            for i in 1..last {
                let (before, after) = self.values.split_at_mut(i);
                self.layers[i].run(&before[i - 1], &mut after[0]);
            }
            self.layers[last].run(&self.values[last - 1], action);
            Ok(())
        }
    }

    /// Prints, for each instruction set and for all together, the choice between the kernels and whether it
    /// holds: the median of the chosen one against single precision, from calls in turns.
    fn choices(timer: &Timer, calls: usize) {
        const TURNS: usize = 20;
        let networks: [(&[usize], Activation); 2] =
            [(&[32, 64, 64, 3], Activation::Tanh), (&[128, 256, 256, 3], Activation::Relu)];
        let sets = Isa::available_for(Precision::Bf16).into_iter();
        let mut rivals: Vec<_> = sets.map(|isa| (isa.name(), WeightKernel::candidates_on(isa))).collect();
        rivals.push(("all", WeightKernel::candidates()));
        println!(
            "\n{:<16} {:<12} {:<24} {:>12} {:>8} {:>8}",
            "network", "set", "kernel", "at load us", "p50 us", "of f32"
        );
        for (sizes, activation) in networks {
            let shape = sizes.iter().map(ToString::to_string).collect::<Vec<_>>().join("-");
            let observation = weights(sizes[0], 1);
            for (set, kernels) in &rivals {
                let policy = |kernel: &WeightKernel| Mlp::new(*kernel, sizes, activation);
                let mut policies: Vec<_> = kernels.iter().map(policy).collect();
                let times = measure(&mut policies, &observation, || MonotonicClock.now().0)
                    .expect("layers have no fault");
                let candidate = |(kernel, ns): (&WeightKernel, f64)| WeightCandidate {
                    kernel: *kernel,
                    ns: Some(ns),
                    refused: None,
                };
                let candidates: Vec<_> = kernels.iter().zip(times).map(candidate).collect();
                let chosen = choose(&candidates).expect("none is refused");
                let mut samples: Vec<_> = kernels.iter().map(|_| Sample::with_capacity(calls)).collect();
                let mut action = vec![0.0; sizes[sizes.len() - 1]];
                for _ in 0..TURNS {
                    for (policy, sample) in policies.iter_mut().zip(&mut samples) {
                        let mut call = || policy.infer(&observation, &mut action).expect("no fault");
                        timer.sample(sample, calls / TURNS, &mut call);
                        black_box(&action);
                    }
                }
                let single = samples[0].quantile(0.5);
                for (index, (candidate, sample)) in candidates.iter().zip(&samples).enumerate() {
                    let p50 = sample.quantile(0.5);
                    println!(
                        "{shape:<16} {set:<12} {:<24} {:>12.3} {:>8.3} {:>8.2}{}",
                        candidate.kernel.label(),
                        candidate.ns.unwrap_or(f64::NAN) / 1e3,
                        p50 / 1e3,
                        p50 / single,
                        if index == chosen { "  chosen" } else { "" }
                    );
                }
            }
        }
    }

    fn mlp(isa: Isa, precision: Precision, sizes: &[usize], activation: Activation) -> Row {
        let layers = layers(isa, precision, sizes, activation);
        let input = weights(sizes[0], 1);
        let mut values: Vec<Vec<f32>> = sizes[1..].iter().map(|&size| vec![0.0; size]).collect();
        let shape: Vec<String> = sizes.iter().map(ToString::to_string).collect();
        Row {
            name: format!(
                "MLP {} {} {} {}",
                shape.join("-"),
                activation.name(),
                isa.name(),
                precision.name()
            ),
            multiply_adds: layers.iter().map(Dense::multiply_adds).sum(),
            weight_bytes: layers.iter().map(Dense::weight_bytes).sum(),
            call: Box::new(move || {
                layers[0].run(black_box(&input), &mut values[0]);
                for i in 1..layers.len() {
                    let (before, after) = values.split_at_mut(i);
                    layers[i].run(&before[i - 1], &mut after[0]);
                }
                black_box(&values);
            }),
        }
    }

    fn lstm(isa: Isa, precision: Precision, inputs: usize, hidden: usize, steps: usize) -> Row {
        let gates = 4 * hidden;
        let (bias_ih, bias_hh) = (weights(gates, hidden), weights(gates, hidden));
        let cell = Lstm::pack(
            isa,
            precision,
            &weights(gates * inputs, hidden),
            &weights(gates * hidden, hidden),
            Some(&bias_ih),
            Some(&bias_hh),
            inputs,
            hidden,
        );
        let input = weights(steps * inputs, 1);
        let (mut h, mut c) = (vec![0.0; hidden], vec![0.0; hidden]);
        let mut output = vec![0.0; steps * hidden];
        let mut scratch = vec![0.0; cell.scratch_len(steps)];
        let kind = if steps == 1 { "step".to_owned() } else { format!("window of {steps}") };
        Row {
            name: format!("LSTM {inputs}->{hidden} {kind} {} {}", isa.name(), precision.name()),
            multiply_adds: steps * cell.multiply_adds(),
            weight_bytes: cell.weight_bytes() + (steps - 1) * cell.recurrent_bytes(),
            call: Box::new(move || {
                if steps == 1 {
                    cell.step(black_box(&input), &mut h, &mut c, &mut scratch);
                } else {
                    h.fill(0.0);
                    c.fill(0.0);
                    cell.window(steps, black_box(&input), &mut h, &mut c, &mut output, &mut scratch);
                }
                black_box((&h, &output));
            }),
        }
    }

    pub fn main() {
        let mut core = std::thread::available_parallelism().map_or(0, |count| count.get() - 1);
        let mut calls = 100_000;
        let mut filter = String::new();
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut number = || arguments.next().and_then(|value| value.parse().ok()).expect("a number");
            match argument.as_str() {
                "--bench" => {}
                "--core" => core = number(),
                "--calls" => calls = number(),
                other => other.clone_into(&mut filter),
            }
        }
        let pinned = core_affinity::set_for_current(core_affinity::CoreId { id: core });
        let _flush = FlushDenormals::enter();
        let timer = Timer::calibrate();
        let limits = CoreLimits::measure(|mut call| timer.time(&mut call)).expect("the limits need AVX2");
        println!(
            "core {core}{}, {:.2} GHz TSC in steps of {:.1} ns, empty measurement {:.1} ns (subtracted)",
            if pinned { "" } else { " (NOT pinned)" },
            timer.ticks_per_ns(),
            timer.resolution_ns(),
            timer.overhead_ns()
        );
        println!("limits: {limits}");
        if filter.is_empty() || filter == "choice" {
            choices(&timer, calls);
        }
        if filter == "choice" {
            return;
        }
        println!(
            "{:<44} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}   {:>5} {:>5}",
            "network", "min us", "p50", "p99", "p99.9", "max", "calls", "FMA", "load"
        );
        let isas_of = |precision| {
            let isas = Isa::available_for(precision).into_iter().filter(|&isa| isa != Isa::Scalar).rev();
            isas.map(move |isa| (isa, precision))
        };
        for (isa, precision) in [Precision::F32, Precision::Bf16].into_iter().flat_map(isas_of) {
            let rows = [
                mlp(isa, precision, &[32, 64, 64, 3], Activation::Tanh),
                mlp(isa, precision, &[128, 256, 256, 3], Activation::Relu),
                lstm(isa, precision, 32, 64, 1),
                lstm(isa, precision, 32, 256, 1),
                lstm(isa, precision, 32, 64, 20),
            ];
            for mut row in rows.into_iter().filter(|row| row.name.contains(&filter)) {
                let mut sample = Sample::with_capacity(calls);
                timer.sample(&mut sample, calls, &mut row.call);
                let us = |ns: f64| ns / 1e3;
                let p50 = sample.quantile(0.5);
                println!(
                    "{:<44} {:>8.3} {:>8.3} {:>8.3} {:>8.3} {:>8.1} {:>8}   {:>4.0}% {:>4.0}%",
                    row.name,
                    us(sample.quantile(0.0)),
                    us(p50),
                    us(sample.quantile(0.99)),
                    us(sample.quantile(0.999)),
                    us(sample.quantile(1.0)),
                    sample.len(),
                    100.0 * limits.multiply_fraction(row.multiply_adds, p50),
                    100.0 * limits.load_fraction(row.weight_bytes, p50),
                );
            }
        }
    }
}
