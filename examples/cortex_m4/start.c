/* Starts a Cortex-M processor without a C library. */

#include "semihosting.h"

#include <stddef.h>
#include <stdint.h>

typedef uint32_t __attribute__((may_alias)) word;

int main(void);
void reset(void);
void stop(void);

/* Addresses from link.ld. */
extern uint32_t data_start[], data_end[], data_values[], bss_start[], bss_end[], stack_end[];

/* The processor reads its stack pointer and the address of `reset` here. All faults end the program. */
__attribute__((section(".vectors"), used)) static void *const vectors[] = {
    stack_end, (void *)reset, (void *)stop, (void *)stop, (void *)stop, (void *)stop, (void *)stop,
};

void reset(void)
{
    size_t i;
    for (i = 0; i < (size_t)(data_end - data_start); i++)
        data_start[i] = data_values[i];
    for (i = 0; i < (size_t)(bss_end - bss_start); i++)
        bss_start[i] = 0;
    leave(main() == 0);
}

void stop(void)
{
    leave(0);
}

/* Compilers may call these two, also where the source does not. The attribute keeps them from calling themselves. They take
   whole words where they can. */
#define NO_LOOPS_TO_CALLS __attribute__((optimize("no-tree-loop-distribute-patterns")))

NO_LOOPS_TO_CALLS void *memcpy(void *restrict to, const void *restrict from, size_t n)
{
    size_t i = 0;
    if (((uintptr_t)to | (uintptr_t)from) % sizeof(word) == 0)
        for (; i + sizeof(word) <= n; i += sizeof(word))
            *(word *)((uint8_t *)to + i) = *(const word *)((const uint8_t *)from + i);
    for (; i < n; i++)
        ((uint8_t *)to)[i] = ((const uint8_t *)from)[i];
    return to;
}

NO_LOOPS_TO_CALLS void *memset(void *to, int value, size_t n)
{
    size_t i = 0;
    if ((uintptr_t)to % sizeof(word) == 0)
        for (; i + sizeof(word) <= n; i += sizeof(word))
            *(word *)((uint8_t *)to + i) = 0x01010101u * (uint8_t)value;
    for (; i < n; i++)
        ((uint8_t *)to)[i] = (uint8_t)value;
    return to;
}
