/* An order gateway written from docs/FORMATS.md and include/escapement.h alone.
 *
 *   gateway DIRECTORY COUNT HEARTBEAT_TIMEOUT_MS MAX_ACTION_AGE_MS
 *
 * takes COUNT actions, makes every check of "What a gateway does" before each send, and prints how many it would have
 * sent, how many it withheld, and a line for each reason. It gives up after ten seconds without an action. Ends with 0,
 * or with 1 and a line on stderr.
 *
 *   cc -std=c11 -I include examples/gateway.c -o gateway */
#define _POSIX_C_SOURCE 200809L
#define _DEFAULT_SOURCE
#include "rings.h"

const char *const program = "gateway";

int main(int argc, char **argv)
{
    if (argc != 5)
        refuse("usage: gateway DIRECTORY COUNT HEARTBEAT_TIMEOUT_MS MAX_ACTION_AGE_MS");
    const uint64_t count = strtoull(argv[2], NULL, 10);
    const struct escapement_limits limits = { strtoull(argv[3], NULL, 10) * 1000000u,
                                              strtoull(argv[4], NULL, 10) * 1000000u };
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
    uint64_t reasons[ESCAPEMENT_WITHHELD_TOO_OLD + 1] = { 0 };
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
        enum escapement_withheld why = escapement_check(region, header.generation, action, is_whole,
                                                        sent == 0 ? NULL : &last_sent, &limits,
                                                        nanoseconds(CLOCK_MONOTONIC));
        reasons[why]++;
        if (why == ESCAPEMENT_SEND) {
            /* Your order goes out here, built from action->payload. Whatever takes long belongs before the check. */
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
    for (int why = ESCAPEMENT_WITHHELD_TORN; why <= ESCAPEMENT_WITHHELD_TOO_OLD; why++)
        if (reasons[why] > 0)
            printf("%s %llu\n", escapement_withheld_name(why), (unsigned long long)reasons[why]);
    free(action);
    return 0;
}
