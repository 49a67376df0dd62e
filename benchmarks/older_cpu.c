/* Answers the cpuid instructions that older_cpu.py replaced by ud2, hiding VNNI and AMX, and AVX-512 unless OLDER_CPU is avx512. */
#define _GNU_SOURCE
#include <cpuid.h>
#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

enum { EBX_AVX512 = 0xDC230000u,  /* F DQ IFMA PF ER CD BW VL */
       ECX_AVX512 = 0x00005842u,  /* VBMI VBMI2 VNNI BITALG VPOPCNTDQ */
       EDX_AVX512_AMX = 0x03C0010Cu,
       ECX_VNNI = 0x00000800u, EDX_AMX = 0x03C00000u }; /* EDX: FP16 and AMX */

static int keeps_avx512;

static void answer(int number, siginfo_t *info, void *context) {
    (void)number, (void)info;
    greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
    const unsigned char *at = (const unsigned char *)r[REG_RIP];
    if (at[0] != 0x0F || at[1] != 0x0B) { signal(SIGILL, SIG_DFL); return; }
    unsigned leaf = (unsigned)r[REG_RAX], sub = (unsigned)r[REG_RCX], a, b, c, d;
    __cpuid_count(leaf, sub, a, b, c, d);
    if (leaf == 7 && sub == 0 && keeps_avx512) c &= ~ECX_VNNI, d &= ~EDX_AMX;
    else if (leaf == 7 && sub == 0) b &= ~EBX_AVX512, c &= ~ECX_AVX512, d &= ~EDX_AVX512_AMX;
    if (leaf == 7 && sub == 1) a = b = c = d = 0;
    r[REG_RAX] = a, r[REG_RBX] = b, r[REG_RCX] = c, r[REG_RDX] = d;
    r[REG_RIP] += 2;
}

/* Others (Python's faulthandler) must not take the signal away. */
int sigaction(int number, const struct sigaction *action, struct sigaction *old) {
    static int (*real)(int, const struct sigaction *, struct sigaction *);
    if (!real) real = (int (*)(int, const struct sigaction *, struct sigaction *))dlsym(RTLD_NEXT, "sigaction");
    if (number == SIGILL && action && action->sa_sigaction != answer) return real(number, NULL, old);
    return real(number, action, old);
}

__attribute__((constructor)) static void install(void) {
    const char *kept = getenv("OLDER_CPU");
    keeps_avx512 = kept && !strcmp(kept, "avx512");
    struct sigaction action = {0};
    action.sa_sigaction = answer;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGILL, &action, NULL);
}
