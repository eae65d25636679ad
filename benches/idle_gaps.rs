//! What an idle core costs: one call after a pause, and how often it must be kept warm.
//!
//! `cargo bench --bench idle_gaps [-- --core N --calls N]`. The process spins between the calls, as the
//! engine does. The networks are the kernels alone, for each instruction set. Prints percentiles and sample
//! counts, and asserts no time. Under `cargo test --benches` it runs small.

#[cfg(target_arch = "x86_64")]
mod x86 {
    use escapement::clock::{Clock, MachineClock, Nanos};
    use escapement::denormals::FlushDenormals;
    use escapement::policy::native::kernels::{Activation, Dense, Isa, Precision};
    use escapement::telemetry::{Histogram, Percentiles};
    use std::hint::black_box;

    /// Pauses between two calls.
    const GAPS_US: [u64; 5] = [0, 20, 200, 1_000, 5_000];
    /// Quiet times after which the core is kept warm; zero for never.
    const KEEP_WARM_US: [u64; 6] = [0, 2, 5, 10, 20, 50];
    /// The longest that one row takes.
    const ROW: Nanos = Nanos::from_millis(4_000);

    /// A network, and a call of it.
    struct Network {
        name: String,
        call: Box<dyn FnMut()>,
    }

    fn mlp(isa: Isa, sizes: &'static [usize]) -> Network {
        let layers: Vec<Dense> = sizes
            .windows(2)
            .map(|pair| {
                let (inputs, outputs) = (pair[0], pair[1]);
                let weights: Vec<f32> =
                    (0..inputs * outputs).map(|index| (index % 17) as f32 * 0.01 - 0.08).collect();
                let bias = vec![0.0; outputs];
                let kind = Activation::Tanh;
                Dense::pack(isa, Precision::F32, &weights, Some(&bias), inputs, outputs, kind)
            })
            .collect();
        let mut values: Vec<Vec<f32>> = sizes.iter().map(|size| vec![0.1; *size]).collect();
        let shape: Vec<String> = sizes.iter().map(ToString::to_string).collect();
        Network {
            name: format!("MLP {} {}", shape.join("-"), isa.name()),
            call: Box::new(move || {
                for (index, layer) in layers.iter().enumerate() {
                    let (before, after) = values.split_at_mut(index + 1);
                    layer.run(black_box(&before[index]), &mut after[0]);
                }
                black_box(&values);
            }),
        }
    }

    /// Times calls that are `gap` apart.
    fn measure(
        clock: &MachineClock,
        network: &mut Network,
        gap: Nanos,
        warm: Nanos,
        calls: u64,
    ) -> Percentiles {
        let mut histogram = Histogram::new();
        let begun = clock.now();
        let mut due = begun;
        for _ in 0..calls {
            due = due.plus(gap);
            let mut busy_until = clock.now();
            loop {
                let now = clock.now();
                if now >= due {
                    break;
                }
                if warm > Nanos(0) && now.since(busy_until) >= warm {
                    (network.call)();
                    busy_until = clock.now();
                }
                core::hint::spin_loop();
            }
            let called = clock.begin();
            (network.call)();
            let returned = clock.now();
            histogram.record(returned.since(called).0);
            if returned.since(begun) >= ROW {
                break;
            }
            due = due.max(Nanos(returned.0.saturating_sub(gap.0)));
        }
        histogram.percentiles()
    }

    pub fn main() {
        let arguments: Vec<String> = std::env::args().collect();
        let value_of = |name: &str| {
            let at = arguments.iter().position(|argument| argument == name)?;
            let text = arguments.get(at + 1).unwrap_or_else(|| panic!("{name} needs a number"));
            Some(text.parse::<u64>().unwrap_or_else(|_| panic!("{name} {text}: not a number")))
        };
        let full = arguments.iter().any(|argument| argument == "--bench");
        let calls = value_of("--calls").unwrap_or(if full { 20_000 } else { 20 });
        let core = value_of("--core")
            .map_or(core_affinity::get_core_ids().and_then(|ids| ids.last().copied()), |id| {
                Some(core_affinity::CoreId { id: id as usize })
            });
        core.into_iter().for_each(|core| _ = core_affinity::set_for_current(core));
        let _flush = FlushDenormals::enter();
        let clock = MachineClock::new();
        println!(
            "{:<28} {:>7} {:>6} {:>7} {:>7} {:>7} {:>9} {:>7}",
            "times in ns", "gap us", "warm", "p50", "p99", "p99.9", "max", "count"
        );
        for isa in Isa::available_for(Precision::F32).into_iter().filter(|&isa| isa != Isa::Scalar).rev() {
            for sizes in [&[32usize, 64, 64, 3][..]] {
                let mut network = mlp(isa, sizes);
                for gap in GAPS_US {
                    for warm in KEEP_WARM_US.into_iter().filter(|warm| *warm < gap.max(1)) {
                        let (gap_ns, warm_ns) = (Nanos::from_micros(gap), Nanos::from_micros(warm));
                        let Percentiles { p50, p99, p999, max, count, .. } =
                            measure(&clock, &mut network, gap_ns, warm_ns, calls);
                        println!(
                            "{:<28} {gap:>7} {warm:>6} {p50:>7} {p99:>7} {p999:>7} {max:>9} {count:>7}",
                            network.name
                        );
                    }
                }
            }
        }
    }
}

fn main() {
    #[cfg(target_arch = "x86_64")]
    x86::main();
}
