/* Classifies ten test images and says how many instructions an image takes. */

#include "model.h"
#include "semihosting.h"

#define IMAGE_BYTES (MODEL_HEIGHT * MODEL_WIDTH * MODEL_CHANNELS)
#define IMAGES 10

/* The bytes of images.raw, in flash. */
extern const uint8_t images[];
__asm__(".section .rodata\nimages: .incbin \"images.raw\"\n.previous");

static const uint8_t classes[IMAGES] = {9, 2, 1, 1, 6, 1, 4, 6, 5, 7}; /* which they show */

static uint8_t buffer[MODEL_BUFFER_BYTES];

/* The timer of all Cortex-M processors, which counts down, once in a clock cycle: on the board that is emulated 25 million times
   in a second, or once in 40 instructions of the emulator. */
#define TIMER ((volatile uint32_t *)0xe000e010)
enum { CONTROL, RELOAD, COUNT };
#define INSTRUCTIONS_IN_A_CYCLE 40

static void print_number(uint32_t number, unsigned width)
{
    char text[12];
    unsigned i = sizeof text - 1;
    text[i] = '\0';
    do {
        text[--i] = (char)('0' + number % 10);
        number /= 10;
    } while (number != 0);
    while (sizeof text - 1 - i < width)
        text[--i] = ' ';
    print(text + i);
}

int main(void)
{
    unsigned i, right = 0;
    TIMER[RELOAD] = 0xffffff;
    TIMER[COUNT] = 0;
    TIMER[CONTROL] = 5; /* it counts cycles of the processor, without interrupts */
    for (i = 0; i < IMAGES; i++) {
        int32_t logits[MODEL_CLASSES];
        const uint32_t start = TIMER[COUNT];
        uint32_t cycles;
        int k, best = 0;
        model_logits(images + i * IMAGE_BYTES, logits, buffer);
        cycles = (start - TIMER[COUNT]) & 0xffffff;
        for (k = 1; k < MODEL_CLASSES; k++)
            if (logits[k] > logits[best])
                best = k;
        right += best == classes[i];
        print(best == classes[i] ? "right  " : "wrong  ");
        print_number(cycles * INSTRUCTIONS_IN_A_CYCLE, 9);
        print(" instructions  ");
        print(model_class_names[best]);
        print("\n");
    }
    print_number(right, 0);
    print(" of 10 right\n");
    return 0;
}
