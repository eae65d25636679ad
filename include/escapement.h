/* Escapement's shared memory in C11: the layouts of docs/FORMATS.md, which explains their use.
 * Everything is little-endian. tests/shared_memory/layout.rs checks this file against the program. */
#ifndef ESCAPEMENT_H
#define ESCAPEMENT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ESCAPEMENT_MAGIC "ESCPRING"
#define ESCAPEMENT_LAYOUT_VERSION 1u
#define ESCAPEMENT_DTYPE_F32 1u
#define ESCAPEMENT_DATA_OFFSET 4096u
#define ESCAPEMENT_MIN_CAPACITY 2u
#define ESCAPEMENT_MAX_CAPACITY 1048576u
#define ESCAPEMENT_MAX_SLOT_SIZE 65536u
#define ESCAPEMENT_MAX_DIMENSION 4096u
#define ESCAPEMENT_MAX_POSITION (UINT64_C(1) << 62)

enum escapement_kind { ESCAPEMENT_KIND_OBSERVATION = 1, ESCAPEMENT_KIND_ACTION = 2 };

/* The header page of a region. Slot i begins at data_offset + i * slot_size. */
struct escapement_region {
    char magic[8];
    uint32_t layout_version;
    uint32_t kind;
    uint32_t slot_size;
    uint32_t dtype;
    uint32_t dimension;
    uint32_t data_offset;
    uint64_t capacity;
    uint64_t generation;
    uint8_t reserved[12];
    uint32_t header_checksum; /* CRC-32C of the 60 bytes before it */
    uint8_t gap_64[64];
    _Atomic uint64_t producer_position;
    uint8_t gap_136[120];
    _Atomic uint64_t consumer_position;
    uint8_t gap_264[120];
    _Atomic uint64_t producer_heartbeat_ns;
    uint8_t gap_392[120];
    _Atomic uint64_t consumer_heartbeat_ns;
    uint8_t gap_520[120];
    _Atomic uint64_t state; /* low half: enum escapement_state; high half: enum escapement_reason */
    _Atomic uint64_t epoch;
    _Atomic uint64_t bundle_hash[4];
    uint8_t gap_688[3408];
    uint8_t slots[];
};

struct escapement_observation {
    uint64_t sequence;
    uint64_t ts_event_ns;
    uint64_t ts_publish_ns;
    uint32_t flags;
    uint32_t checksum; /* CRC-32C of the 28 bytes before it and of the payload */
    float payload[];
};

struct escapement_action {
    uint64_t sequence;
    uint64_t position;
    uint64_t ts_event_ns;
    uint64_t ts_publish_ns;
    uint64_t ts_commit_ns;
    uint64_t inference_ns;
    uint64_t queue_ns;
    uint32_t epoch;
    uint16_t outcome;
    uint16_t reason;
    uint32_t generation;
    uint32_t reserved;
    uint32_t flags;
    uint32_t checksum; /* CRC-32C of the 76 bytes before it and of the payload */
    float payload[];
};

enum escapement_observation_flag { ESCAPEMENT_OBSERVATION_CHECKED = 1, ESCAPEMENT_OBSERVATION_RESTART = 2 };

enum escapement_action_flag {
    ESCAPEMENT_ACTION_INFERENCE_LATE = 1,
    ESCAPEMENT_ACTION_END_TO_END_LATE = 2,
    ESCAPEMENT_ACTION_STALE = 4,
    ESCAPEMENT_ACTION_GAP = 8
};

/* Which of these a gateway sends: docs/FORMATS.md, "What a gateway does". */
enum escapement_outcome {
    ESCAPEMENT_OUTCOME_POLICY = 1,
    ESCAPEMENT_OUTCOME_SAFE_DEFAULT = 2,
    ESCAPEMENT_OUTCOME_HALT = 3,
    ESCAPEMENT_OUTCOME_FALLBACK = 4
};

enum escapement_reason {
    ESCAPEMENT_REASON_POLICY = 0,
    ESCAPEMENT_REASON_INFERENCE_LATE = 1,
    ESCAPEMENT_REASON_END_TO_END_LATE = 2,
    ESCAPEMENT_REASON_GUARD_TAKEOVER = 3,
    ESCAPEMENT_REASON_STALE = 4,
    ESCAPEMENT_REASON_OBSERVATION_NON_FINITE = 5,
    ESCAPEMENT_REASON_OBSERVATION_OUT_OF_RANGE = 6,
    ESCAPEMENT_REASON_SEQUENCE_GAP = 7,
    ESCAPEMENT_REASON_ACTION_NON_FINITE = 8,
    ESCAPEMENT_REASON_ACTION_OUT_OF_BOUNDS = 9,
    ESCAPEMENT_REASON_POLICY_ERROR = 10,
    ESCAPEMENT_REASON_OPERATOR = 11,
    ESCAPEMENT_REASON_SEQUENCE_DUPLICATE = 12,
    ESCAPEMENT_REASON_SEQUENCE_REORDERED = 13,
    ESCAPEMENT_REASON_OBSERVATION_TORN = 14,
    ESCAPEMENT_REASON_ACTION_RING_FULL = 15,
    ESCAPEMENT_REASON_ERROR_BUDGET = 16,
    ESCAPEMENT_REASON_PROTOCOL_VIOLATION = 17,
    ESCAPEMENT_REASON_WARM_UP_TOO_SLOW = 18,
    ESCAPEMENT_REASON_PANIC = 19,
    ESCAPEMENT_REASON_BUS_ERROR = 20,
    ESCAPEMENT_REASON_POLICY_HUNG = 21,
    ESCAPEMENT_REASON_BURN_IN = 22,
    ESCAPEMENT_REASON_STAMPED_AHEAD = 23,
    ESCAPEMENT_REASON_CLOCK_FAULT = 24,
    ESCAPEMENT_REASON_FILES_LOST = 25,
    ESCAPEMENT_REASON_GATEWAY_LOST = 26
};

/* The low half of the state word. In which of these a gateway sends: docs/FORMATS.md, "What a gateway does". */
enum escapement_state {
    ESCAPEMENT_STATE_STARTING = 1,
    ESCAPEMENT_STATE_WARMING = 2,
    ESCAPEMENT_STATE_ARMED = 3,
    ESCAPEMENT_STATE_HALTED = 4,
    ESCAPEMENT_STATE_DRAINING = 5,
    ESCAPEMENT_STATE_STOPPED = 6
};

/* What a gateway still accepts. Both limits are in nanoseconds, and neither has a default. */
struct escapement_limits {
    uint64_t heartbeat_timeout_ns;
    uint64_t max_action_age_ns;
};

/* An action whose commit lies further ahead of the gateway's clock than this has no age that can be trusted. */
#define ESCAPEMENT_MAX_COMMIT_SKEW_NS UINT64_C(1000000)

/* Why an action may not be sent. Not on the wire. */
enum escapement_withheld {
    ESCAPEMENT_SEND = 0,
    ESCAPEMENT_WITHHELD_TORN,
    ESCAPEMENT_WITHHELD_OUTCOME,
    ESCAPEMENT_WITHHELD_REPEATED,
    ESCAPEMENT_WITHHELD_NOT_ARMED,
    ESCAPEMENT_WITHHELD_SILENT,
    ESCAPEMENT_WITHHELD_OTHER_GENERATION,
    ESCAPEMENT_WITHHELD_PAST_EPOCH,
    ESCAPEMENT_WITHHELD_STAMPED_AHEAD,
    ESCAPEMENT_WITHHELD_TOO_OLD
};

/* The checks of docs/FORMATS.md, "What a gateway does", in their order. `action` is a copy out of the ring. The caller
 * computes the checksum (`is_whole`) and knows the position of the last action sent (`last_sent`, NULL for none) and
 * the ring's generation when it was opened. `now_ns` is CLOCK_MONOTONIC, read after the copy. */
static inline enum escapement_withheld escapement_check(struct escapement_region *region, uint64_t generation,
                                                        const struct escapement_action *action, bool is_whole,
                                                        const uint64_t *last_sent,
                                                        const struct escapement_limits *limits, uint64_t now_ns)
{
    if (!is_whole || action->outcome < ESCAPEMENT_OUTCOME_POLICY || action->outcome > ESCAPEMENT_OUTCOME_FALLBACK
        || action->reason > ESCAPEMENT_REASON_GATEWAY_LOST)
        return ESCAPEMENT_WITHHELD_TORN;
    if (action->outcome == ESCAPEMENT_OUTCOME_HALT)
        return ESCAPEMENT_WITHHELD_OUTCOME;
    if (last_sent != NULL && action->position <= *last_sent)
        return ESCAPEMENT_WITHHELD_REPEATED;
    /* The state is read first. The daemon writes the epoch before it writes `armed`. */
    if ((uint32_t)atomic_load_explicit(&region->state, memory_order_acquire) != ESCAPEMENT_STATE_ARMED)
        return ESCAPEMENT_WITHHELD_NOT_ARMED;
    uint64_t heartbeat = atomic_load_explicit(&region->producer_heartbeat_ns, memory_order_relaxed);
    if (now_ns > heartbeat && now_ns - heartbeat > limits->heartbeat_timeout_ns)
        return ESCAPEMENT_WITHHELD_SILENT;
    if (*(const volatile uint64_t *)&region->generation != generation)
        return ESCAPEMENT_WITHHELD_OTHER_GENERATION;
    /* The frame has the low half of the number. */
    if (action->epoch != (uint32_t)atomic_load_explicit(&region->epoch, memory_order_relaxed))
        return ESCAPEMENT_WITHHELD_PAST_EPOCH;
    uint64_t committed = action->ts_commit_ns;
    if (committed > now_ns)
        return committed - now_ns > ESCAPEMENT_MAX_COMMIT_SKEW_NS ? ESCAPEMENT_WITHHELD_STAMPED_AHEAD : ESCAPEMENT_SEND;
    return now_ns - committed > limits->max_action_age_ns ? ESCAPEMENT_WITHHELD_TOO_OLD : ESCAPEMENT_SEND;
}

static inline const char *escapement_withheld_name(enum escapement_withheld why)
{
    switch (why) {
    case ESCAPEMENT_SEND: return "send";
    case ESCAPEMENT_WITHHELD_TORN: return "torn";
    case ESCAPEMENT_WITHHELD_OUTCOME: return "halt";
    case ESCAPEMENT_WITHHELD_REPEATED: return "repeated";
    case ESCAPEMENT_WITHHELD_NOT_ARMED: return "not_armed";
    case ESCAPEMENT_WITHHELD_SILENT: return "silent";
    case ESCAPEMENT_WITHHELD_OTHER_GENERATION: return "other_generation";
    case ESCAPEMENT_WITHHELD_PAST_EPOCH: return "past_epoch";
    case ESCAPEMENT_WITHHELD_STAMPED_AHEAD: return "stamped_ahead";
    case ESCAPEMENT_WITHHELD_TOO_OLD: return "too_old";
    }
    return "unknown";
}

_Static_assert(sizeof(_Atomic uint64_t) == 8, "positions are plain 8-byte words");
_Static_assert(offsetof(struct escapement_region, header_checksum) == 60, "fixed header");
_Static_assert(offsetof(struct escapement_region, producer_position) == 128, "positions");
_Static_assert(offsetof(struct escapement_region, consumer_position) == 256, "positions");
_Static_assert(offsetof(struct escapement_region, state) == 640, "state");
_Static_assert(sizeof(struct escapement_region) == ESCAPEMENT_DATA_OFFSET, "header page");
_Static_assert(sizeof(struct escapement_observation) == 32, "observation frame");
_Static_assert(sizeof(struct escapement_action) == 80, "action frame");

#endif
