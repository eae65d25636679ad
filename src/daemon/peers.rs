//! Feed and gateway, judged by their heartbeats, and how full the rings between them and the agent are.

use crate::status::{FeedState, PeersStatus, RingDepth};
use escapement_ring::clock::Nanos;
use escapement_ring::ring::Region;

/// A feed whose heartbeat is older than this counts as lost.
const FEED_LOST_AFTER: Nanos = Nanos::from_millis(1_000);

/// The two rings, seen by the supervisor.
pub(super) struct Peers {
    observations: Region,
    actions: Region,
    feed: FeedState,
    gateway: FeedState,
    gateway_losses: u64,
}

impl Peers {
    pub(super) fn new(observations: Region, actions: Region) -> Self {
        let absent = FeedState::Absent;
        Self { observations, actions, feed: absent, gateway: absent, gateway_losses: 0 }
    }

    /// Judges both and logs each change once. Returns whether the gateway was lost just now.
    pub(super) fn watch(&mut self, now: Nanos, gateway_lost_after: Nanos) -> bool {
        let heartbeat = self.feed_heartbeat();
        let feed = judge(now, heartbeat, FEED_LOST_AFTER);
        if feed != self.feed {
            match feed {
                FeedState::Lost => tracing::warn!(silent_ns = now.since(heartbeat).0, "feed lost"),
                FeedState::Alive => tracing::info!("feed alive"),
                FeedState::Absent => {}
            }
            self.feed = feed;
        }
        let heartbeat = self.gateway_heartbeat();
        let gateway = judge(now, heartbeat, gateway_lost_after);
        let before = std::mem::replace(&mut self.gateway, gateway);
        if gateway != before {
            match gateway {
                FeedState::Lost => tracing::warn!(silent_ns = now.since(heartbeat).0, "gateway lost"),
                FeedState::Alive => tracing::info!("gateway alive"),
                FeedState::Absent => {}
            }
        }
        // A heartbeat that was old already when the agent started is that of another epoch's gateway.
        let newly_lost = gateway == FeedState::Lost && before == FeedState::Alive;
        self.gateway_losses += u64::from(newly_lost);
        newly_lost
    }

    /// The feed's state.
    pub(super) fn feed(&self) -> FeedState {
        self.feed
    }

    /// What the status page says about both.
    pub(super) fn status(&self, now: Nanos) -> PeersStatus {
        let age = |heartbeat: Nanos| (heartbeat > Nanos(0)).then(|| now.since(heartbeat).0);
        PeersStatus {
            gateway: self.gateway,
            gateway_losses: self.gateway_losses,
            feed_heartbeat_age_ns: age(self.feed_heartbeat()),
            gateway_heartbeat_age_ns: age(self.gateway_heartbeat()),
            observations: depth(&self.observations),
            actions: depth(&self.actions),
        }
    }

    fn feed_heartbeat(&self) -> Nanos {
        Nanos(self.observations.header().producer_heartbeat_ns())
    }

    fn gateway_heartbeat(&self) -> Nanos {
        Nanos(self.actions.header().consumer_heartbeat_ns())
    }
}

fn judge(now: Nanos, heartbeat: Nanos, lost_after: Nanos) -> FeedState {
    if heartbeat == Nanos(0) {
        FeedState::Absent
    } else if now.since(heartbeat) > lost_after {
        FeedState::Lost
    } else {
        FeedState::Alive
    }
}

/// A peer can write its position, so the depth is at most the capacity.
fn depth(ring: &Region) -> RingDepth {
    let (committed, released) = ring.positions();
    let capacity = ring.spec().capacity;
    RingDepth { depth: committed.wrapping_sub(released).min(capacity), capacity }
}
