//! The speed of the kernels on one pinned core, call by call, compared with what the core can load and
//! multiply.
//!
//! `cargo bench --bench kernels [-- --core N] [--calls N] [FILTER]`
//!
//! Each call is timed alone with the time stamp counter, fenced on both sides. The cost of an empty
//! measurement is printed and subtracted. The limits (fused multiply-adds, loads from the first and the
//! second cache level) are measured in the same run, so the fractions hold on a noisy machine too.

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

    use escapement::denormals::FlushDenormals;
    use escapement::policy::native::kernels::{Activation, Dense, Isa, Lstm, Precision};

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

    fn mlp(isa: Isa, precision: Precision, sizes: &[usize], activation: Activation) -> Row {
        let layers: Vec<Dense> = sizes
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
            .collect();
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
