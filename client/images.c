/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Registering images and asking about them. A program is sent in pieces that fit a frame, read one
 * at a time, so that its size costs the client no memory.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/value.h"
#include "client/client.h"

#include "proto/convert_policy.h"
#include "proto/service.h"

#define PIECE (1u << 20)

void limits_copy(struct hl_limits *out, const Hl__V1__Limits *in)
{
    *out = (struct hl_limits){0};
    if (!in)
        return;
    *out = (struct hl_limits){
        .memory = in->memory,
        .deadline_ns = in->deadline_ns,
        .io_size = in->io_size,
        .min_instances = in->min_instances,
        .max_instances = in->max_instances,
        .max_queue = in->max_queue,
    };
}

static int out_of_memory(struct hl_client_error *err)
{
    return failure_local(err, -ENOMEM, HL_STATUS_RESOURCE_EXHAUSTED, "out of memory");
}

static int take_function(struct hl_function *out, const Hl__V1__Function *in)
{
    *out = (struct hl_function){.name = in->name};
    if (in->n_params > HL_MAX_PARAMS || !hl_type_name((enum hl_type)in->ret) ||
        !hl_name_valid(in->name, strlen(in->name)))
        return -EPROTO;
    out->sig.ret = (enum hl_type)in->ret;
    out->sig.nparams = (unsigned int)in->n_params;
    for (size_t i = 0; i < in->n_params; i++) {
        out->sig.params[i] = (enum hl_type)in->params[i];
        if (in->params[i] <= HL__V1__TYPE__VOID || !hl_type_name(out->sig.params[i]))
            return -EPROTO;
    }
    return 0;
}

static int take_policy(struct hl_client *client, struct hl_image *out, const Hl__V1__HostPolicy *in,
                       struct hl_client_error *err)
{
    struct hl_host_policy *policy;
    struct hl_error why = HL_ERROR_INIT;

    if (!in)
        return 0;
    policy = arena_alloc(client->arena, sizeof(*policy));
    if (!policy)
        return out_of_memory(err);
    if (policy_from_message(policy, in, &why) < 0)
        return failure_local(err, -EPROTO, HL_STATUS_INTERNAL, "hld describes its policy: %s",
                             why.text);
    out->host = policy;
    return 0;
}

static int take_image(struct hl_client *client, struct hl_image *out, const Hl__V1__Image *in,
                      struct hl_client_error *err)
{
    struct hl_function *functions;

    *out = (struct hl_image){
        .name = in->name,
        .size = in->size,
        .registered_unix_ns = in->registered_unix_ns,
        .snapshot_bytes = in->snapshot_bytes,
        .start_ns = in->start_ns,
        .owner_uid = in->owner_uid,
        .is_private = in->private_ != 0,
        .parent = in->parent,
        .state_bytes = in->state_bytes,
        .root_bytes = in->root_bytes,
    };
    limits_copy(&out->limits, in->limits);
    if (in->sha256.len == sizeof(out->sha256))
        memcpy(out->sha256, in->sha256.data, sizeof(out->sha256));
    if (take_policy(client, out, in->host, err) < 0)
        return -EPROTO;
    if (in->n_functions == 0)
        return 0;
    functions = arena_alloc(client->arena, in->n_functions * sizeof(*functions));
    if (!functions)
        return out_of_memory(err);
    for (size_t i = 0; i < in->n_functions; i++) {
        if (take_function(&functions[i], in->functions[i]) < 0)
            return failure_local(err, -EPROTO, HL_STATUS_INTERNAL,
                                 "hld describes function %zu in a way this version does not know",
                                 i);
    }
    out->functions = functions;
    out->nfunctions = in->n_functions;
    return 0;
}

static int hand_out(struct hl_client *client, const struct hl_image **out, const Hl__V1__Image *in,
                    struct hl_client_error *err)
{
    struct hl_image *image;
    int r;

    if (!in)
        return failure_local(err, -EPROTO, HL_STATUS_INTERNAL, "hld's answer holds no image");
    image = arena_alloc(client->arena, sizeof(*image));
    if (!image)
        return out_of_memory(err);
    r = take_image(client, image, in, err);
    if (r == 0)
        *out = image;
    return r;
}

/* Sends one piece; *upload_id is 0 for the first. */
static int upload(struct hl_client *client, uint64_t *upload_id, uint64_t offset, const void *data,
                  size_t len, struct hl_client_error *err)
{
    Hl__V1__UploadRequest request = HL__V1__UPLOAD_REQUEST__INIT;
    const Hl__V1__UploadResponse *response;
    ProtobufCMessage *message;
    int r;

    request.upload_id = *upload_id;
    request.offset = offset;
    request.data = (ProtobufCBinaryData){.len = len, .data = (uint8_t *)data};
    r = request_simple(client, SERVICE_IMAGES, "Upload", &request.base,
                       &hl__v1__upload_response__descriptor, &message, err);
    if (r < 0)
        return r;
    response = (const Hl__V1__UploadResponse *)message;
    if (response->received != offset + len || response->upload_id == 0)
        return failure_local(err, -EPROTO, HL_STATUS_INTERNAL,
                             "hld received something else than was sent");
    *upload_id = response->upload_id;
    arena_reset(client->arena);
    return 0;
}

static int finish(struct hl_client *client, const struct hl_registration *reg, uint64_t upload_id,
                  const struct hl_image **image, struct hl_client_error *err)
{
    Hl__V1__RegisterRequest request = HL__V1__REGISTER_REQUEST__INIT;
    Hl__V1__Limits limits = HL__V1__LIMITS__INIT;
    struct policy_message host;
    ProtobufCMessage *message;
    int r;

    request.name = (char *)reg->name;
    request.upload_id = upload_id;
    request.private_ = reg->is_private;
    if (reg->sha256)
        request.sha256 = (ProtobufCBinaryData){.len = 32, .data = (uint8_t *)reg->sha256};
    limits.memory = reg->limits.memory;
    limits.deadline_ns = reg->limits.deadline_ns;
    limits.io_size = reg->limits.io_size;
    limits.min_instances = reg->limits.min_instances;
    limits.max_instances = reg->limits.max_instances;
    limits.max_queue = reg->limits.max_queue;
    request.limits = &limits;
    if (reg->host) {
        policy_to_message(&host, reg->host);
        request.host = &host.policy;
    }
    r = request_simple(client, SERVICE_IMAGES, "Register", &request.base,
                       &hl__v1__register_response__descriptor, &message, err);
    if (r < 0 || !image)
        return r;
    return hand_out(client, image, ((const Hl__V1__RegisterResponse *)message)->image, err);
}

static int check_registration(const struct hl_registration *reg, struct hl_client_error *err)
{
    struct hl_error why = HL_ERROR_INIT;

    if (reg->host && host_policy_check(reg->host, &why) < 0)
        return failure_local(err, -EINVAL, HL_STATUS_INVALID_ARGUMENT, "%s", why.text);
    return 0;
}

int hl_client_register(struct hl_client *client, const struct hl_registration *reg,
                       const void *program, size_t size, const struct hl_image **image,
                       struct hl_client_error *err)
{
    uint64_t upload_id = 0;
    size_t offset = 0;
    int r;

    r = request_begin(client, err);
    if (r == 0)
        r = check_registration(reg, err);
    if (r < 0)
        return r;
    do {
        size_t len = size - offset < PIECE ? size - offset : PIECE;

        r = upload(client, &upload_id, offset, (const uint8_t *)program + offset, len, err);
        offset += len;
    } while (r == 0 && offset < size);
    return r < 0 ? r : finish(client, reg, upload_id, image, err);
}

/* Fills buf unless the end comes first. Returns: how much, or a negative errno. */
static ssize_t read_piece(int fd, uint8_t *buf)
{
    size_t have = 0;

    while (have < PIECE) {
        ssize_t n = read(fd, buf + have, PIECE - have);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        have += (size_t)n;
    }
    return (ssize_t)have;
}

int hl_client_register_fd(struct hl_client *client, const struct hl_registration *reg, int fd,
                          const struct hl_image **image, struct hl_client_error *err)
{
    _cleanup_free_ uint8_t *piece = malloc(PIECE);
    uint64_t upload_id = 0, offset = 0;
    ssize_t n;
    int r;

    r = request_begin(client, err);
    if (r == 0)
        r = check_registration(reg, err);
    if (r < 0)
        return r;
    if (!piece)
        return out_of_memory(err);
    do {
        n = read_piece(fd, piece);
        if (n < 0)
            return failure_local(err, (int)n, HL_STATUS_INVALID_ARGUMENT,
                                 "cannot read the program: %s", strerror((int)-n));
        if (n == 0 && offset > 0)
            break;
        r = upload(client, &upload_id, offset, piece, (size_t)n, err);
        offset += (uint64_t)n;
    } while (r == 0 && n == PIECE);
    return r < 0 ? r : finish(client, reg, upload_id, image, err);
}

int hl_client_unregister(struct hl_client *client, const char *name, struct hl_client_error *err)
{
    Hl__V1__UnregisterRequest request = HL__V1__UNREGISTER_REQUEST__INIT;
    ProtobufCMessage *message;
    int r;

    r = request_begin(client, err);
    if (r < 0)
        return r;
    request.name = (char *)name;
    return request_simple(client, SERVICE_IMAGES, "Unregister", &request.base,
                          &hl__v1__unregister_response__descriptor, &message, err);
}

int hl_client_list(struct hl_client *client, const char *after, uint32_t limit,
                   struct hl_image_list *list, struct hl_client_error *err)
{
    Hl__V1__ListRequest request = HL__V1__LIST_REQUEST__INIT;
    const Hl__V1__ListResponse *response;
    ProtobufCMessage *message;
    struct hl_image *images;
    int r;

    r = request_begin(client, err);
    if (r < 0)
        return r;
    if (after)
        request.after = (char *)after;
    request.limit = limit;
    r = request_simple(client, SERVICE_IMAGES, "List", &request.base,
                       &hl__v1__list_response__descriptor, &message, err);
    if (r < 0)
        return r;
    response = (const Hl__V1__ListResponse *)message;
    images = arena_alloc(client->arena, (response->n_images + 1) * sizeof(*images));
    if (!images)
        return out_of_memory(err);
    for (size_t i = 0; i < response->n_images; i++) {
        r = take_image(client, &images[i], response->images[i], err);
        if (r < 0)
            return r;
    }
    *list = (struct hl_image_list){
        .count = response->n_images,
        .images = images,
        .more = response->more && response->n_images > 0,
    };
    return 0;
}

int hl_client_inspect(struct hl_client *client, const char *name, const struct hl_image **image,
                      struct hl_client_error *err)
{
    Hl__V1__InspectRequest request = HL__V1__INSPECT_REQUEST__INIT;
    const Hl__V1__InspectResponse *response;
    ProtobufCMessage *message;
    struct hl_image *out;
    int r;

    r = request_begin(client, err);
    if (r < 0)
        return r;
    request.name = (char *)name;
    r = request_simple(client, SERVICE_IMAGES, "Inspect", &request.base,
                       &hl__v1__inspect_response__descriptor, &message, err);
    if (r < 0)
        return r;
    response = (const Hl__V1__InspectResponse *)message;
    r = hand_out(client, image, response->image, err);
    if (r < 0)
        return r;
    out = (struct hl_image *)*image;
    out->nlog = response->n_log;
    out->log = (const char *const *)response->log;
    return 0;
}
