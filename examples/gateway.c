/* An order gateway written from docs/FORMATS.md and include/escapement.h alone.
 *
 *   gateway DIRECTORY COUNT HEARTBEAT_TIMEOUT_MS
 *
 * takes COUNT actions, makes every check of "What a gateway does" before each send, and prints how many it would have
 * sent and how many it withheld. It gives up after ten seconds without an action. Ends with 0, or with 1 and a line on
 * stderr.
 *
 *   cc -std=c11 -I include examples/gateway.c -o gateway */
#define _POSIX_C_SOURCE 200809L
#define _DEFAULT_SOURCE
#include "rings.h"

#include <stdbool.h>

const char *const program = "gateway";

/* Whether the numbers of the frame are ones that this program knows. */
static bool is_known(const struct escapement_action *action)
{
    return action->outcome >= ESCAPEMENT_OUTCOME_POLICY && action->outcome <= ESCAPEMENT_OUTCOME_FALLBACK
        && action->reason <= ESCAPEMENT_REASON_GATEWAY_LOST;
}

/* Check 2: the outcomes that carry an action. A record of a halt carries none. */
static bool carries_an_action(const struct escapement_action *action)
{
    return action->outcome == ESCAPEMENT_OUTCOME_POLICY || action->outcome == ESCAPEMENT_OUTCOME_FALLBACK
        || action->outcome == ESCAPEMENT_OUTCOME_SAFE_DEFAULT;
}

/* Checks 4 and 5: the agent is armed, and it is alive. */
static bool is_in_charge(struct escapement_region *region, uint64_t timeout_ns)
{
    uint64_t state = atomic_load_explicit(&region->state, memory_order_acquire);
    if ((uint32_t)state != ESCAPEMENT_STATE_ARMED)
        return false;
    uint64_t heartbeat = atomic_load_explicit(&region->producer_heartbeat_ns, memory_order_relaxed);
    uint64_t now = nanoseconds(CLOCK_MONOTONIC);
    return now < heartbeat || now - heartbeat <= timeout_ns;
}

int main(int argc, char **argv)
{
    if (argc != 4)
        refuse("usage: gateway DIRECTORY COUNT HEARTBEAT_TIMEOUT_MS");
    const uint64_t count = strtoull(argv[2], NULL, 10), timeout_ns = strtoull(argv[3], NULL, 10) * 1000000u;
    static struct escapement_region header;
    take_role(argv[1], "tap");
    struct escapement_region *region = open_region(argv[1], ESCAPEMENT_KIND_ACTION, &header);
    struct escapement_action *action = malloc(header.slot_size);
    if (action == NULL)
        refuse("no memory");

    uint64_t position = atomic_load_explicit(&region->consumer_position, memory_order_acquire);
    if (position > ESCAPEMENT_MAX_POSITION)
        refuse("an impossible position");
    uint64_t seen = position, sent = 0, withheld = 0, last_sent = 0, last_action = nanoseconds(CLOCK_MONOTONIC);
    while (sent + withheld < count) {
        atomic_store_explicit(&region->consumer_heartbeat_ns, nanoseconds(CLOCK_MONOTONIC), memory_order_relaxed);
        if (position == seen) {
            uint64_t found = atomic_load_explicit(&region->producer_position, memory_order_acquire);
            if (found < seen || found - position > header.capacity)
                refuse("the producer broke the protocol");
            seen = found;
        }
        if (position == seen) {
            if (nanoseconds(CLOCK_MONOTONIC) - last_action > UINT64_C(10000000000))
                break;
            nanosleep(&(struct timespec){ .tv_nsec = 200000 }, NULL);
            continue;
        }
        /* Copy first, check the copy: the agent's process may still write to the slot. */
        const uint8_t *slot =
            (const uint8_t *)region + ESCAPEMENT_DATA_OFFSET + (position & (header.capacity - 1)) * header.slot_size;
        memcpy(action, slot, sizeof *action + 4 * (size_t)header.dimension);
        bool is_whole = action->checksum == crc32c(action, 76, action->payload, 4 * (size_t)header.dimension);
        bool is_new = sent == 0 || action->position > last_sent;
        if (is_whole && is_known(action) && carries_an_action(action) && is_new && is_in_charge(region, timeout_ns)) {
            /* Your order goes out here, built from action->payload. */
            last_sent = action->position;
            sent++;
        } else {
            withheld++;
        }
        position++;
        atomic_store_explicit(&region->consumer_position, position, memory_order_release);
        last_action = nanoseconds(CLOCK_MONOTONIC);
    }
    printf("%llu actions to send, %llu withheld\n", (unsigned long long)sent, (unsigned long long)withheld);
    free(action);
    return 0;
}
