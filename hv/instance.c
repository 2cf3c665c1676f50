/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls on a bound machine. The order is fixed: begin writes the call, run goes to its end, result
 * copies the answer, reset returns to the snapshot. What does not fit that order is refused, and an
 * instance whose guest failed in any way is never reset, only freed.
 */
#include "hv/instance.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "hv/call.h"
#include "hv/guest.h"
#include "hv/timer.h"

#define SLOT_MIN  (16ull << 20)
#define COPY_PART (1u << 20) /* of a result, between two looks at the clock */

struct shell {
    const struct hv_backend *hv;
    struct hv_machine *machine;
    uint64_t slot_size;
};

enum phase {
    PHASE_WARM,
    PHASE_CALLING,
    PHASE_HOST_CALL, /* of a call: a host function is to be answered */
    PHASE_COPYING,   /* of a call: its result is on the way out */
    PHASE_DONE,
    PHASE_BROKEN,
};

struct instance {
    const struct hv_backend *hv;
    struct hv_machine *machine; /* shell's */
    struct shell *shell;
    struct snapshot *snap;
    const struct image *img;
    enum phase phase;
    bool fresh; /* no call since it was bound or reset */
    struct guest guest;
    const struct image_function *function;
    struct instance_result result; /* while DONE and not taken */
    struct call_buffer buffer;     /* for the bytes of results */
    int result_code;               /* -ENOMEM: there was no memory to copy it */
    uint8_t *into;                 /* of instance_result_into, or NULL */
    size_t into_size, copied;
    hl_gpa copy_from;
    unsigned int skip;
};

HL_DEFINE_CLEANUP(struct shell *, shell_free)
HL_DEFINE_CLEANUP(struct instance *, instance_free)

uint64_t shell_class(uint64_t memory_size)
{
    uint64_t size = SLOT_MIN;

    while (size < memory_size && size < 1ull << 62)
        size *= 2;
    return size;
}

int shell_new(struct shell **out, const struct hv_backend *hv, struct hv_host *host,
              uint64_t slot_size, struct hl_error *err)
{
    _cleanup_(shell_freep) struct shell *shell = calloc(1, sizeof(*shell));
    int rc;

    *out = NULL;
    if (!shell)
        return hl_error_set(err, -ENOMEM, "no memory for a shell");
    shell->hv = hv;
    shell->slot_size = slot_size;
    rc = hv->machine_new(&shell->machine, host, slot_size, err);
    if (rc < 0)
        return rc;
    *out = HL_STEAL(shell);
    return 0;
}

void shell_free(struct shell *shell)
{
    if (!shell)
        return;
    shell->hv->machine_free(shell->machine);
    free(shell);
}

int instance_bind(struct instance **out, struct shell *shell, struct snapshot *snap,
                  const struct image *img, struct hl_error *err)
{
    _cleanup_(shell_freep) struct shell *taken = shell;
    _cleanup_(instance_freep) struct instance *inst = NULL;
    int rc;

    *out = NULL;
    if (snapshot_size(snap) > taken->slot_size)
        return hl_error_set(err, -EINVAL,
                            "a snapshot of %" PRIu64 " bytes does not fit a shell of %" PRIu64,
                            snapshot_size(snap), taken->slot_size);
    inst = calloc(1, sizeof(*inst));
    if (!inst)
        return hl_error_set(err, -ENOMEM, "no memory for an instance");
    inst->hv = taken->hv;
    inst->machine = taken->machine;
    inst->shell = HL_STEAL(taken);
    rc = inst->hv->bind(inst->machine, snap, err);
    if (rc < 0)
        return rc;
    inst->snap = snapshot_ref(snap);
    inst->img = img;
    guest_init(&inst->guest, inst->hv, inst->machine, snap, img, false);
    inst->fresh = true;
    *out = HL_STEAL(inst);
    return 0;
}

void instance_free(struct instance *inst)
{
    if (!inst)
        return;
    call_buffer_trim(&inst->buffer, 0);
    guest_fini(&inst->guest);
    shell_free(inst->shell);
    snapshot_unref(inst->snap);
    free(inst);
}

struct shell *instance_unbind(struct instance *inst)
{
    struct shell *shell = NULL;

    if (inst->hv->unbind && (inst->phase == PHASE_WARM || inst->phase == PHASE_DONE) &&
        inst->hv->unbind(inst->machine) == 0)
        shell = HL_STEAL(inst->shell);
    instance_free(inst);
    return shell;
}

void instance_set_log(struct instance *inst, instance_log_cb cb, void *opaque)
{
    inst->guest.log = cb;
    inst->guest.log_opaque = opaque;
}

void instance_set_skip(struct instance *inst, unsigned int skip)
{
    inst->skip = skip;
}

void instance_set_deterministic(struct instance *inst, const uint8_t seed[HV_SEED_SIZE])
{
    world_init(&inst->guest.world, seed, false);
}

static bool has_bulk_window(const struct snapshot *snap)
{
    struct hl_abi_info info;

    memcpy(&info, snapshot_memory(snap) + HL_ABI_INFO_ADDR, sizeof(info));
    return info.flags & HL_ABI_INFO_BULK;
}

int instance_check_args(const struct image *img, size_t function, const struct snapshot *snap,
                        const struct hl_value *args, size_t nargs, struct hl_error *err)
{
    const struct image_function *fn = image_function(img, function);
    struct call_args placed;
    uint32_t size;
    int rc;

    if (!fn)
        return hl_error_set(err, -EINVAL, "function %zu of %zu", function,
                            image_function_count(img));
    rc = call_place(&placed, args, nargs, has_bulk_window(snap), err);
    return rc < 0 ? rc : call_check(fn, snapshot_io_size(snap), &placed, &size, err);
}

/* What a first call brings besides its arguments. *size grows. Returns: HL_ABI_CALL_…. */
static uint16_t first_call(struct instance *inst, uint8_t entropy[HL_ABI_ENTROPY_SIZE],
                           uint32_t *size)
{
    uint64_t with = call_size_with_entropy(*size);

    if (!inst->fresh)
        return 0;
    if (with > snapshot_io_size(inst->snap) - HL_ABI_RESULT_ROOM ||
        world_entropy(&inst->guest.world, entropy, HL_ABI_ENTROPY_SIZE) < 0)
        return HL_ABI_CALL_FIRST;
    *size = (uint32_t)with;
    return HL_ABI_CALL_FIRST | HL_ABI_CALL_ENTROPY;
}

/* Maps what args has in the bulk window; *some: whether any of it is there. */
static int attach(struct instance *inst, const struct call_args *args, bool *some)
{
    int rc = 0;

    *some = false;
    for (size_t i = 0; i < args->nargs && rc == 0; i++) {
        const struct hl_value *arg = &args->args[i];

        if (args->at[i])
            rc = inst->hv->attach(inst->machine, args->at[i], arg->descriptor.fd,
                                  arg->descriptor.len);
        *some |= args->at[i] && rc == 0;
    }
    return rc;
}

/* Finds a place for each argument, and has those in descriptors there: mapped, or else to be
 * copied. */
static int place(struct instance *inst, const struct image_function *fn, struct call_args *placed,
                 const struct hl_value *args, size_t nargs, uint32_t *size, struct hl_error *err)
{
    uint64_t io_size = snapshot_io_size(inst->snap);
    bool some;
    int rc = call_place(placed, args, nargs, has_bulk_window(inst->snap), err);

    if (rc == 0)
        rc = call_check(fn, io_size, placed, size, err);
    if (rc < 0)
        return rc;
    rc = attach(inst, placed, &some);
    if (rc == 0)
        return 0;
    if (rc == -EOPNOTSUPP || rc == -ENOBUFS) {
        rc = call_place(placed, args, nargs, false, err);
        if (rc == 0)
            rc = call_check(fn, io_size, placed, size, err);
    } else {
        some = true; /* nobody knows */
        hl_error_set(err, rc, "an argument's descriptor cannot be mapped: %s", strerror(-rc));
    }
    if (rc < 0 && some)
        inst->phase = PHASE_BROKEN;
    return rc;
}

static int begin(struct instance *inst, size_t function, const struct hl_value *args, size_t nargs,
                 struct hl_error *err)
{
    const struct image_function *fn = image_function(inst->img, function);
    struct call_head head = {.function = (uint32_t)function};
    uint8_t entropy[HL_ABI_ENTROPY_SIZE];
    struct call_args placed;
    int rc;

    if (inst->phase != PHASE_WARM)
        return hl_error_set(err, -EBUSY, "the instance has a call already");
    if (!fn)
        return hl_error_set(err, -EINVAL, "function %zu of %zu", function,
                            image_function_count(inst->img));
    rc = place(inst, fn, &placed, args, nargs, &head.size, err);
    if (rc < 0)
        return rc;
    head.flags = first_call(inst, entropy, &head.size);
    if (inst->into)
        head.flags |= HL_ABI_CALL_LARGE;
    head.entropy = head.flags & HL_ABI_CALL_ENTROPY ? entropy : NULL;
    inst->hv->io_dirty(inst->machine, 0, head.size);
    if (call_write(inst->hv->io_window(inst->machine), &head, &placed) < 0) {
        inst->phase = PHASE_BROKEN;
        return hl_error_set(err, -EIO, "an argument's descriptor cannot be read");
    }
    inst->hv->set_return(inst->machine, head.size);
    inst->fresh = false;
    memset(&inst->guest.counters, 0, sizeof(inst->guest.counters));
    inst->function = fn;
    inst->phase = PHASE_CALLING;
    return 0;
}

int instance_begin(struct instance *inst, size_t function, const struct hl_value *args,
                   size_t nargs, struct hl_error *err)
{
    int rc = begin(inst, function, args, nargs, err);

    if (rc < 0 && rc != -EBUSY)
        inst->into = NULL;
    return rc;
}

void instance_result_into(struct instance *inst, void *to, size_t size)
{
    inst->into = to;
    inst->into_size = size;
    inst->copied = 0;
}

static enum instance_state broken(struct instance *inst)
{
    inst->phase = PHASE_BROKEN;
    return INSTANCE_FAULT;
}

static enum instance_state broken_result(struct instance *inst, const char *text)
{
    guest_fail(&inst->guest, INSTANCE_END_PROTOCOL, 0, "broken result: %s", text);
    return broken(inst);
}

/* The result's bytes go out. What a guest that is not settled writes meanwhile is as good as what
 * it wrote before. */
static enum instance_state copy_out(struct instance *inst, uint64_t until_ns)
{
    size_t len = inst->result.value.descriptor.len;

    inst->phase = PHASE_COPYING;
    while (inst->copied < len) {
        size_t part = len - inst->copied < COPY_PART ? len - inst->copied : COPY_PART;

        if (inst->hv->mem_read(inst->machine, inst->copy_from + inst->copied,
                               inst->into + inst->copied, part) < 0)
            return broken_result(inst, "its bytes cannot be read");
        inst->copied += part;
        if (inst->copied < len && hv_now_ns() >= until_ns)
            return INSTANCE_KICKED;
    }
    inst->phase = PHASE_DONE;
    return INSTANCE_DONE;
}

static enum instance_state begin_copy(struct instance *inst, const struct hl_abi_value *value,
                                      uint64_t until_ns)
{
    inst->copy_from = HL_ABI_IO_ADDR + value->bits;
    if (!space_allows(&inst->guest.space, inst->copy_from, value->len, false))
        return broken_result(inst, "its bytes are in memory that the program cannot read");
    inst->result = (struct instance_result){
        .value = {.type = HL_TYPE_DESCRIPTOR, .descriptor = {.len = value->len, .fd = -1}},
    };
    if (value->len <= inst->into_size)
        return copy_out(inst, until_ns);
    inst->result_code = -EMSGSIZE;
    inst->phase = PHASE_DONE;
    return INSTANCE_DONE;
}

static enum instance_state finish(struct instance *inst, uint64_t until_ns)
{
    const struct call_window window = {
        .data = inst->hv->io_window(inst->machine),
        .io_size = snapshot_io_size(inst->snap),
        .reach =
            inst->into ? snapshot_size(inst->snap) - HL_ABI_IO_ADDR : snapshot_io_size(inst->snap),
    };
    struct hl_error err = HL_ERROR_INIT;
    struct hl_abi_result header;
    int rc;

    rc = call_read_result(inst->function, &window, inst->guest.result, &header, &err);
    inst->result_code = 0;
    if (rc == 0 && inst->into && !header.error && header.value.type == HL_ABI_BYTES)
        return begin_copy(inst, &header.value, until_ns);
    if (rc == 0)
        rc = call_take_value(&header, window.data, &inst->result.value,
                             inst->hv->settled ? NULL : &inst->buffer, &err);
    if (rc == -EPROTO)
        return broken_result(inst, err.text);
    inst->result.is_error = header.error != 0;
    inst->result.code = header.error ? header.code : 0;
    inst->result_code = rc;
    inst->phase = PHASE_DONE;
    return INSTANCE_DONE;
}

enum instance_state instance_run(struct instance *inst, uint64_t until_ns)
{
    if (inst->phase == PHASE_DONE)
        return INSTANCE_DONE;
    if (inst->phase == PHASE_HOST_CALL)
        return INSTANCE_HOST_CALL;
    if (inst->phase == PHASE_COPYING)
        return copy_out(inst, until_ns);
    if (inst->phase != PHASE_CALLING) {
        guest_fail(&inst->guest, INSTANCE_END_DIED, 0, "run without a call");
        return broken(inst);
    }
    switch (guest_run(&inst->guest, until_ns)) {
    case GUEST_DONE:
        return finish(inst, until_ns);
    case GUEST_KICKED:
        return INSTANCE_KICKED;
    case GUEST_HOST_CALL:
        inst->phase = PHASE_HOST_CALL;
        return INSTANCE_HOST_CALL;
    default:
        return broken(inst);
    }
}

const struct instance_host_call *instance_host_call(const struct instance *inst)
{
    return inst->phase == PHASE_HOST_CALL ? &inst->guest.host_call.shown : NULL;
}

int instance_host_return(struct instance *inst, const struct hl_value *result, struct hl_error *err)
{
    int rc;

    if (inst->phase != PHASE_HOST_CALL)
        return hl_error_set(err, -EBUSY, "no host function is to be answered");
    rc = guest_host_return(&inst->guest, result, err);
    if (rc == 0)
        inst->phase = PHASE_CALLING;
    return rc;
}

int instance_host_fail(struct instance *inst, enum hl_status status, int32_t code, const char *text,
                       size_t len)
{
    if (inst->phase != PHASE_HOST_CALL)
        return -EBUSY;
    guest_host_fail(&inst->guest, status, code, text, len);
    inst->phase = PHASE_CALLING;
    return 0;
}

int instance_result(struct instance *inst, struct instance_result *result, struct hl_error *err)
{
    memset(result, 0, sizeof(*result));
    if (inst->phase != PHASE_DONE)
        return hl_error_set(err, -EBUSY, "the call has no result");
    if (inst->result_code == -EMSGSIZE)
        return hl_error_set(err, -EMSGSIZE,
                            "the result takes %zu bytes, more than the %zu that there is room for",
                            inst->result.value.descriptor.len, inst->into_size);
    if (inst->result_code < 0)
        return hl_error_set(err, inst->result_code, "%s",
                            inst->result_code == -ENOMEM ? "no memory for the result"
                                                         : "the result was taken");
    *result = inst->result;
    inst->result_code = -ENODATA; /* it is taken once */
    return 0;
}

const struct instance_failure *instance_failure(const struct instance *inst)
{
    return &inst->guest.failure;
}

const struct instance_counters *instance_counters(const struct instance *inst)
{
    return &inst->guest.counters;
}

int instance_reset(struct instance *inst, bool audit, uint64_t *pages, struct hl_error *err)
{
    uint64_t written = 0;
    int rc;

    *pages = 0;
    /* A guest stopped in the middle of something is not worth trusting a reset to. */
    if (inst->phase != PHASE_WARM && inst->phase != PHASE_DONE)
        return 1;
    rc = inst->hv->reset(inst->machine, inst->skip, &written);
    *pages = written;
    if (rc == 0 && audit)
        rc = inst->hv->audit(inst->machine, err) == 0 ? 0 : -EBADMSG;
    if (rc != 0) {
        inst->phase = PHASE_BROKEN;
        if (rc < 0 && rc != -EBADMSG)
            hl_error_wrap(err, rc, "reset");
        return rc;
    }
    call_buffer_trim(&inst->buffer, CALL_BUFFER_KEPT);
    guest_reset(&inst->guest);
    inst->into = NULL;
    inst->fresh = true;
    inst->phase = PHASE_WARM;
    return 0;
}

/* READY is to return once more, and its return address is no longer where it was taken from: the
 * next function that was called from there has put its own in that place. */
static int put_return_address(struct instance *inst)
{
    hl_gpa at = snapshot_regs(inst->snap)->rsp;
    uint64_t size = snapshot_size(inst->snap);

    if (at < HL_ABI_IO_ADDR || at > size - sizeof(uint64_t))
        return 0; /* then there never was one */
    return inst->hv->mem_write(inst->machine, at, snapshot_memory(inst->snap) + at,
                               sizeof(uint64_t));
}

int instance_continue(struct instance *inst)
{
    int rc;

    if (inst->phase != PHASE_DONE)
        return inst->phase == PHASE_WARM ? 0 : 1;
    rc = inst->hv->rewind(inst->machine);
    if (rc == 0)
        rc = put_return_address(inst);
    if (rc != 0) {
        inst->phase = PHASE_BROKEN;
        return rc;
    }
    call_buffer_trim(&inst->buffer, CALL_BUFFER_KEPT);
    guest_continue(&inst->guest);
    inst->into = NULL;
    inst->phase = PHASE_WARM;
    return 0;
}

int instance_relax(struct instance *inst)
{
    int rc = inst->hv->relax && inst->phase == PHASE_WARM ? inst->hv->relax(inst->machine) : 0;

    if (rc < 0)
        inst->phase = PHASE_BROKEN;
    return rc;
}

struct guest *instance_at_rest(struct instance *inst)
{
    return inst->phase == PHASE_WARM ? &inst->guest : NULL;
}

void instance_put_back(struct instance *inst)
{
    inst->fresh = true;
}

void instance_give_up(struct instance *inst)
{
    inst->phase = PHASE_BROKEN;
}

void instance_kick(struct instance *inst)
{
    inst->hv->kick(inst->machine);
}
