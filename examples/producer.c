/* A feed handler in C. It uses only docs/FORMATS.md and include/escapement.h. tests/shared_memory/layout.rs runs it.
 *
 *   producer DIRECTORY COUNT FIRST_SEQUENCE
 *
 * It commits COUNT observations, each with a checksum, and waits while the ring is full. Feature i of the
 * observation with sequence s is s + i / 16. It exits with 0, or with 1 and a line on stderr.
 *
 *   cc -std=c11 -O2 -I include examples/producer.c -o producer */
#define _POSIX_C_SOURCE 200809L
#define _DEFAULT_SOURCE
#include "rings.h"

#include <sched.h>

const char *const program = "producer";

int main(int argc, char **argv)
{
    if (argc != 4)
        refuse("usage: producer DIRECTORY COUNT FIRST_SEQUENCE");
    const uint64_t count = strtoull(argv[2], NULL, 10), first = strtoull(argv[3], NULL, 10);
    static struct escapement_region header;
    take_role(argv[1], "feed");
    struct escapement_region *region = open_region(argv[1], ESCAPEMENT_KIND_OBSERVATION, &header);
    const uint64_t capacity = header.capacity;

    uint64_t position = atomic_load_explicit(&region->producer_position, memory_order_acquire);
    uint64_t seen = atomic_load_explicit(&region->consumer_position, memory_order_acquire);
    if (position > ESCAPEMENT_MAX_POSITION || seen > position || position - seen > capacity)
        refuse("impossible positions");

    for (uint64_t sequence = first; sequence < first + count; sequence++) {
        while (position - seen == capacity) {
            uint64_t found = atomic_load_explicit(&region->consumer_position, memory_order_acquire);
            if (found < seen || found > position || position - found > capacity)
                refuse("the consumer broke the protocol");
            seen = found;
            atomic_store_explicit(&region->producer_heartbeat_ns, nanoseconds(CLOCK_MONOTONIC), memory_order_relaxed);
            if (position - seen == capacity)
                sched_yield();
        }
        struct escapement_observation *slot =
            (void *)((uint8_t *)region + ESCAPEMENT_DATA_OFFSET + (position & (capacity - 1)) * header.slot_size);
        slot->sequence = sequence;
        slot->ts_event_ns = nanoseconds(CLOCK_REALTIME);
        slot->flags = ESCAPEMENT_OBSERVATION_CHECKED | (sequence == first ? ESCAPEMENT_OBSERVATION_RESTART : 0);
        for (uint32_t i = 0; i < header.dimension; i++)
            slot->payload[i] = (float)sequence + (float)i / 16.0f;
        slot->ts_publish_ns = nanoseconds(CLOCK_MONOTONIC);
        slot->checksum = crc32c(slot, 28, slot->payload, 4 * (size_t)header.dimension);
        position++;
        atomic_store_explicit(&region->producer_position, position, memory_order_release);
        atomic_store_explicit(&region->producer_heartbeat_ns, nanoseconds(CLOCK_MONOTONIC), memory_order_relaxed);
    }
    return 0;
}
