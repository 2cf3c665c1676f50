/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HLSESSION_H
#define HLSESSION_H

/*
 * libhlclient, third part: sessions. A session is an instance of an image that stays as its calls
 * leave it: struct hl_call's session runs a call in it. It belongs to the user, not to the
 * connection: whoever of the same user has its id may use it, from any connection, until it is
 * closed, has been idle for too long, or the daemon ends. Its requests are served one at a time.
 *
 * A call that faults, runs past its deadline, is cancelled or loses its connection makes the
 * session fail: calls and checkpoints get HL_STATUS_FAILED_PRECONDITION until a rollback.
 *
 * The rules are those of hlclient.h.
 */

#include "hlclient.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HL_SESSION_ID_SIZE 48 /* with its NUL; no id is longer */

/* Takes an instance of the image, waiting for one as a call does. id: HL_SESSION_ID_SIZE bytes. */
HL_PUBLIC int hl_session_open(struct hl_client *client, const char *image, char *id,
                              struct hl_client_error *err);

struct hl_checkpoint {
    uint64_t number; /* from 1 up, within the session */
    uint64_t pages;  /* changed since the one before */
    uint64_t bytes;  /* of all checkpoints of the session */
};

/* checkpoint (unless NULL): what was made. */
HL_PUBLIC int hl_session_checkpoint(struct hl_client *client, const char *id,
                                    struct hl_checkpoint *checkpoint, struct hl_client_error *err);
/* To any checkpoint, older or newer; 0 is the session as it was opened. None is lost by it. */
HL_PUBLIC int hl_session_rollback(struct hl_client *client, const char *id, uint64_t checkpoint,
                                  struct hl_client_error *err);
/* Gives a checkpoint's memory back. */
HL_PUBLIC int hl_session_forget(struct hl_client *client, const char *id, uint64_t checkpoint,
                                struct hl_client_error *err);
/* Makes an image of the state of a checkpoint, 0: of now. The session goes on. private: callable by
 * the owner alone, as it is if the parent is private. flatten: the whole state is stored for it, to
 * be the root of what is made of it; otherwise what differs from the family's. bytes (unless NULL):
 * of what differs. */
HL_PUBLIC int hl_session_commit(struct hl_client *client, const char *id, uint64_t checkpoint,
                                const char *name, bool is_private, bool flatten, uint64_t *bytes,
                                struct hl_client_error *err);
HL_PUBLIC int hl_session_close(struct hl_client *client, const char *id,
                               struct hl_client_error *err);

struct hl_session {
    const char *id, *image;
    uint64_t calls, checkpoints, checkpoint_bytes;
    uint64_t age_ns, idle_ns;
    bool busy;
    const char *failed; /* why, or "" */
};

struct hl_session_list {
    size_t count;
    const struct hl_session *sessions;
};

/* All sessions of the user. */
HL_PUBLIC int hl_session_list(struct hl_client *client, struct hl_session_list *list,
                              struct hl_client_error *err);

#ifdef __cplusplus
}
#endif

#endif
