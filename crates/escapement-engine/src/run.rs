//! The duty cycle: tick, idle, heartbeat, until a command or a halt ends it.

use super::command::{Command, CommandWord};
use super::idle::{Idle, IdleStrategy};
use super::progress::Progress;
use super::tick::Engine;
use escapement_policy::denormals::FlushDenormals;
use escapement_ring::clock::{Clock, Nanos};
use escapement_ring::ring::ProtocolViolation;
use escapement_ring::wire::Reason;

/// Why the loop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunEnd {
    /// The engine was told to drain, and everything in the ring is answered.
    Drained,
    /// The engine was told to stop at once.
    Stopped,
    /// The engine halted, by rule or because a person asked for it.
    Halted(Reason),
    /// A peer broke the protocol.
    Violated(ProtocolViolation),
}

/// The interval of this side's heartbeat.
const BEAT_EVERY: Nanos = Nanos::from_micros(500);
/// How often the clock is compared with the kernel's. This happens in idle time, if there is any.
const DISCIPLINE_EVERY: Nanos = Nanos::from_millis(100);
/// How long a stream without a pause may delay that.
const DISCIPLINE_AT_LATEST: Nanos = Nanos::from_millis(1_000);

/// How far a reading may lie before the last one. An unfenced reading can come a little early. Anything more
/// is a clock that went back.
const BACKSTEP: Nanos = Nanos::from_micros(1);

/// Runs the engine on the calling thread until it halts or is told to end.
///
/// While it runs, this thread writes the states `draining` and, if the engine itself halts, `halted`. The
/// guard and the kill switch may write `halted` too. The caller must write `armed` before and `stopped`
/// after.
pub fn run<C: Clock>(engine: &mut Engine<C>, strategy: IdleStrategy, commands: &CommandWord) -> RunEnd {
    // The real-time boundary: from here on our code does not allocate, lock, log or fault.
    let _flush = FlushDenormals::enter();
    let mut idle = Idle::new(strategy);
    let mut beaten = Nanos(0);
    let mut now = engine.clock().now();
    let mut disciplined = now;
    let mut draining = false;
    loop {
        let command = commands.get();
        match command {
            Command::Run => {}
            Command::Drain if draining => {}
            Command::Drain => {
                engine.announce_drain();
                draining = true;
            }
            Command::Stop => return RunEnd::Stopped,
            Command::Halt => {
                engine.halt(Reason::Operator);
                return RunEnd::Halted(Reason::Operator);
            }
        }
        engine.apply_offered_update();
        let mut was_idle = false;
        let before = now;
        match engine.tick() {
            Progress::Done(done) => {
                idle.reset();
                now = done;
                engine.note_answer(now);
            }
            Progress::Idle if command == Command::Drain => return RunEnd::Drained,
            Progress::Idle => {
                was_idle = true;
                if let Some(ended) = engine.keep_warm(now) {
                    now = ended;
                } else {
                    idle.wait();
                    now = engine.clock().now();
                }
            }
            // The guard answers on another core, which takes a microsecond or two.
            Progress::Waiting => now = engine.clock().now(),
            Progress::Halted(reason) => return RunEnd::Halted(reason),
            Progress::Violated(violation) => return RunEnd::Violated(violation),
        }
        if now.plus(BACKSTEP) < before {
            return clock_fault(engine);
        }
        if now.since(beaten) >= BEAT_EVERY {
            engine.beat(now);
            beaten = now;
        }
        let due = if was_idle { DISCIPLINE_EVERY } else { DISCIPLINE_AT_LATEST };
        if now.since(disciplined) >= due {
            if engine.discipline_clock().is_err() {
                return clock_fault(engine);
            }
            disciplined = now;
        }
    }
}

#[cold]
fn clock_fault<C: Clock>(engine: &mut Engine<C>) -> RunEnd {
    engine.halt(Reason::ClockFault);
    RunEnd::Halted(Reason::ClockFault)
}
