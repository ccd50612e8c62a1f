/* Classifies image.raw and prints the number of instructions that takes and the logits. */

#include "model.h"
#include "semihosting.h"

extern const uint8_t image[];
__asm__(".section .rodata\nimage: .incbin \"image.raw\"\n.previous");

static uint8_t buffer[MODEL_BUFFER_BYTES];

#ifdef __riscv
#define ELAPSED_MASK 0x7fffffff

static void start(void)
{
}

/* It counts instructions. */
static uint32_t elapsed(void)
{
    uint32_t count;
    __asm__ volatile(".option push\n.option arch, +zicsr\ncsrr %0, minstret\n.option pop" : "=r"(count));
    return count;
}
#else
/* It counts clock cycles down, in 24 bits. */
#define TIMER ((volatile uint32_t *)0xe000e010)
#define ELAPSED_MASK 0xffffff

static void start(void)
{
    TIMER[1] = 0xffffff;
    TIMER[2] = 0;
    TIMER[0] = 5;
}

static uint32_t elapsed(void)
{
    return 0xffffff - TIMER[2];
}
#endif

static void print_number(int32_t number)
{
    uint32_t left = number < 0 ? 0u - (uint32_t)number : (uint32_t)number;
    char text[16];
    unsigned i = sizeof text - 1;
    text[i] = '\0';
    do {
        text[--i] = (char)('0' + left % 10);
        left /= 10;
    } while (left != 0);
    if (number < 0)
        text[--i] = '-';
    print(text + i);
    print(" ");
}

int main(void)
{
    int32_t logits[MODEL_CLASSES];
    uint32_t before;
    int k;
    start();
    before = elapsed();
    model_logits(image, logits, buffer);
    print_number((int32_t)((elapsed() - before) & ELAPSED_MASK));
    for (k = 0; k < MODEL_CLASSES; k++)
        print_number(logits[k]);
    print("\n");
    return 0;
}
