/* SPDX-License-Identifier: Apache-2.0 */
/* Two arrays of pointers, sorted, searched by halves. Registrations are rare and thousands at most;
 * moving the tail of an array costs less than anything that could replace it. */
#include "config.h"

#include "daemon/registry_index.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int compare_name(const void *item, const void *name)
{
    return strcmp(((const struct index_entry *)item)->manifest.name, name);
}

static int compare_sha256(const void *item, const void *sha256)
{
    return memcmp(((const struct index_blob *)item)->sha256, sha256, REGISTRY_SHA256_SIZE);
}

/* Position of the first item not before key. */
static size_t lower(const struct index_array *array, int (*compare)(const void *, const void *),
                    const void *key, bool *found)
{
    size_t low = 0, high = array->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (compare(array->items[middle], key) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    *found = low < array->count && compare(array->items[low], key) == 0;
    return low;
}

static int array_reserve(struct index_array *array, size_t more)
{
    size_t size = array->size ? array->size * 2 : 64;
    void **items;

    if (array->count + more <= array->size)
        return 0;
    items = reallocarray(array->items, size, sizeof(*items));
    if (!items)
        return -ENOMEM;
    array->items = items;
    array->size = size;
    return 0;
}

static void array_insert(struct index_array *array, size_t at, void *item)
{
    memmove(&array->items[at + 1], &array->items[at], (array->count - at) * sizeof(item));
    array->items[at] = item;
    array->count++;
}

static void array_remove(struct index_array *array, size_t at)
{
    array->count--;
    memmove(&array->items[at], &array->items[at + 1],
            (array->count - at) * sizeof(array->items[0]));
}

void index_entry_free(struct index_entry *entry)
{
    if (entry)
        free(entry->manifest.host);
    free(entry);
}

static void array_fini(struct index_array *array)
{
    free(array->items);
    *array = (struct index_array){0};
}

int index_reserve(struct index *index)
{
    int r = array_reserve(&index->entries, 1);

    return r < 0 ? r : array_reserve(&index->blobs, REGISTRY_FILES);
}

void index_fini(struct index *index)
{
    for (size_t i = 0; i < index->entries.count; i++)
        index_entry_free(index->entries.items[i]);
    for (size_t i = 0; i < index->blobs.count; i++)
        free(index->blobs.items[i]);
    array_fini(&index->entries);
    array_fini(&index->blobs);
}

struct index_entry *index_find(const struct index *index, const char *name)
{
    bool found;
    size_t at = lower(&index->entries, compare_name, name, &found);

    return found ? index->entries.items[at] : NULL;
}

struct index_blob *index_find_blob(const struct index *index,
                                   const uint8_t sha256[REGISTRY_SHA256_SIZE])
{
    bool found;
    size_t at = lower(&index->blobs, compare_sha256, sha256, &found);

    return found ? index->blobs.items[at] : NULL;
}

size_t index_after(const struct index *index, const char *name)
{
    bool found;
    size_t at = lower(&index->entries, compare_name, name, &found);

    return at + found;
}

size_t index_blob_after(const struct index *index, const uint8_t sha256[REGISTRY_SHA256_SIZE])
{
    bool found;
    size_t at = lower(&index->blobs, compare_sha256, sha256, &found);

    return at + found;
}

void index_add(struct index *index, struct index_entry *entry)
{
    bool found;
    size_t at = lower(&index->entries, compare_name, entry->manifest.name, &found);

    array_insert(&index->entries, at, entry);
}

void index_add_blob(struct index *index, struct index_blob *blob)
{
    bool found;
    size_t at = lower(&index->blobs, compare_sha256, blob->sha256, &found);

    array_insert(&index->blobs, at, blob);
}

struct index_entry *index_remove(struct index *index, const char *name)
{
    bool found;
    size_t at = lower(&index->entries, compare_name, name, &found);
    struct index_entry *entry;

    if (!found)
        return NULL;
    entry = index->entries.items[at];
    array_remove(&index->entries, at);
    return entry;
}

void index_remove_blob(struct index *index, struct index_blob *blob)
{
    bool found;
    size_t at = lower(&index->blobs, compare_sha256, blob->sha256, &found);

    if (found)
        array_remove(&index->blobs, at);
}
