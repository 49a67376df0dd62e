/* Plugin of qemu that makes the emulated clocks count instructions; arm_costs.py builds and loads it.
 *
 * Emulation takes times that say nothing about a real CPU, but the instructions that a program executes are
 * those of the real one. After each clock_gettime the plugin replaces the time by the number of instructions
 * so far, TICK nanoseconds each: what the program measures, for example with ONNX Runtime's profiler, are
 * instructions. Emulated memory is this process's own, at the same addresses. The declarations are those of
 * qemu's plugin interface, for which the packages of qemu-user have no header.
 */

#include <stddef.h>
#include <stdint.h>
#include <time.h>

#define CLOCK_GETTIME 113 /* system call number of Linux on aarch64 */
#define SECOND 1000000000u

typedef uint64_t plugin_id;
struct qemu_plugin_tb;

extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id,
                                                  void (*translated)(plugin_id, struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *block, void (*run)(unsigned, void *),
                                                 int flags, void *data);
extern void qemu_plugin_register_vcpu_syscall_cb(
    plugin_id id, void (*called)(plugin_id, unsigned, int64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                                 uint64_t, uint64_t, uint64_t, uint64_t));
extern void qemu_plugin_register_vcpu_syscall_ret_cb(plugin_id id,
                                                     void (*done)(plugin_id, unsigned, int64_t, int64_t));
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);

int qemu_plugin_version = PLUGIN_VERSION;
static uint64_t count;
static _Thread_local struct timespec *asked;

static void run(unsigned cpu, void *instructions) { count += (uintptr_t)instructions; }

static void translated(plugin_id id, struct qemu_plugin_tb *block) {
    qemu_plugin_register_vcpu_tb_exec_cb(block, run, 0, (void *)(uintptr_t)qemu_plugin_tb_n_insns(block));
}

static void called(plugin_id id, unsigned cpu, int64_t number, uint64_t clock, uint64_t address, uint64_t c,
                   uint64_t d, uint64_t e, uint64_t f, uint64_t g, uint64_t h) {
    asked = number == CLOCK_GETTIME ? (struct timespec *)(uintptr_t)address : NULL;
}

static void done(plugin_id id, unsigned cpu, int64_t number, int64_t result) {
    if (number != CLOCK_GETTIME || result != 0 || asked == NULL)
        return;
    asked->tv_sec = (time_t)(count * TICK / SECOND);
    asked->tv_nsec = (long)(count * TICK % SECOND);
}

int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv) {
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    qemu_plugin_register_vcpu_syscall_ret_cb(id, done);
    return 0;
}
