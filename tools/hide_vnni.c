/* Lets a program believe that this x86 CPU has neither VNNI nor AVX-512; built and preloaded by without_vnni.py.

   Linux can make the CPUID instruction fault (arch_prctl ARCH_SET_CPUID). The handler runs it, clears the bits of the
   features to hide, and goes on behind it. Kernels that are chosen by CPUID, as those of onnxruntime, numpy and PyTorch,
   are then those of a CPU with AVX2 alone, at full speed. A program's own handlers of SIGSEGV are not installed. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

enum { SET_CPUID = 0x1012 };

static long let_cpuid(long through) {
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(SYS_arch_prctl), "D"(SET_CPUID), "S"(through)
                     : "rcx", "r11", "memory");
    return result;
}

static void on_fault(int number, siginfo_t *info, void *context) {
    (void)number, (void)info;
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const uint8_t *code = (const uint8_t *)registers[REG_RIP];
    if (code[0] != 0x0f || code[1] != 0xa2) { /* no CPUID: a real fault, which happens again without this handler */
        signal(SIGSEGV, SIG_DFL);
        return;
    }
    uint32_t leaf = (uint32_t)registers[REG_RAX], part = (uint32_t)registers[REG_RCX], a, b, c, d;
    let_cpuid(1);
    __asm__ volatile("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(leaf), "c"(part));
    let_cpuid(0);
    if (leaf == 7 && part == 0) {
        b &= ~(1u << 16 | 1u << 17 | 1u << 21 | 1u << 26 | 1u << 27 | 1u << 28 | 1u << 30 | 1u << 31); /* AVX-512 */
        c &= ~(1u << 1 | 1u << 6 | 1u << 11 | 1u << 12 | 1u << 14);                /* VBMI, VNNI and others of it */
        d &= ~(1u << 2 | 1u << 3 | 1u << 8 | 1u << 22 | 1u << 23 | 1u << 24 | 1u << 25);         /* AMX and others */
    } else if (leaf == 7 && part == 1) {
        a &= ~(1u << 4 | 1u << 5);  /* AVX-VNNI, AVX-512 BF16 */
        d &= ~(1u << 4 | 1u << 10); /* AVX-VNNI of int8 and int16 */
    }
    registers[REG_RAX] = a, registers[REG_RBX] = b, registers[REG_RCX] = c, registers[REG_RDX] = d;
    registers[REG_RIP] += 2;
}

int sigaction(int number, const struct sigaction *wanted, struct sigaction *before) {
    static int (*install)(int, const struct sigaction *, struct sigaction *);
    if (!install) install = (int (*)(int, const struct sigaction *, struct sigaction *))dlsym(RTLD_NEXT, "sigaction");
    if (number == SIGSEGV && wanted && wanted->sa_sigaction != on_fault && wanted->sa_handler != SIG_DFL) {
        if (before) memset(before, 0, sizeof *before);
        return 0;
    }
    return install(number, wanted, before);
}

__attribute__((constructor)) static void begin(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGSEGV, &action, NULL);
    if (let_cpuid(0)) {
        fputs("hide_vnni: this system cannot make CPUID fault\n", stderr);
        exit(3);
    }
}
