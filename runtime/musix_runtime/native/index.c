#include "index.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define WIDEST 256 /* columns of a vector, at most */
#define OVER 32    /* bytes behind codes that may be read, and do not count */
#define BLOCK 32   /* sums that are looked at together */
#define WIDER 4    /* times as many clusters, whenever those searched hold fewer vectors than are asked for */

/* Three halves as many are found by their codes as are asked for; their vectors tell which ones are best. */
#define REFINED(count) ((count) + (count) / 2)

/* Put the `kept` first ones of the hits in front, in no order. */
void select_hits(Hit *hits, Py_ssize_t count, Py_ssize_t kept) {
    Py_ssize_t low = 0, high = count - 1;
    while (low < high) {
        Hit pivot = hits[low + (high - low) / 2];
        Py_ssize_t i = low, j = high;
        while (i <= j) {
            while (before(hits[i], pivot)) i++;
            while (before(pivot, hits[j])) j--;
            if (i <= j) {
                Hit swapped = hits[i];
                hits[i++] = hits[j];
                hits[j--] = swapped;
            }
        }
        if (kept - 1 <= j) high = j;
        else if (kept - 1 >= i) low = i;
        else return;
    }
}

void sort_hits(Hit *hits, Py_ssize_t count) {
    for (Py_ssize_t gap = count / 2; gap > 0; gap = gap == 2 ? 1 : gap * 5 / 11) /* Shell's: there are few */
        for (Py_ssize_t i = gap; i < count; i++) {
            Hit moved = hits[i];
            Py_ssize_t j = i;
            for (; j >= gap && before(moved, hits[j - gap]); j -= gap) hits[j] = hits[j - gap];
            hits[j] = moved;
        }
}

/* The best `size` hits of all that are offered: a list that is cut back whenever it is full. */
typedef struct {
    Hit *hits;
    Py_ssize_t count, size;
    float floor; /* below it nothing is among the best any more */
} Best;

static int best_open(Best *best, Py_ssize_t size) {
    best->hits = malloc(sizeof(Hit) * (size ? 4 * size : 1));
    best->count = 0;
    best->size = size;
    best->floor = size ? -INFINITY : NAN; /* of none, nothing is among the best */
    return best->hits != NULL;
}

static void best_cut(Best *best) {
    if (best->count <= best->size) return;
    select_hits(best->hits, best->count, best->size);
    best->count = best->size;
    float lowest = INFINITY;
    for (Py_ssize_t i = 0; i < best->count; i++) lowest = best->hits[i].score < lowest ? best->hits[i].score : lowest;
    best->floor = lowest;
}

static inline void best_offer(Best *best, float score, int32_t row) {
    if (!(score >= best->floor)) return; /* NaN is never found */
    best->hits[best->count++] = (Hit){score, row};
    if (best->count == 4 * best->size) best_cut(best);
}

typedef struct {
    int64_t codes, rows, size; /* where they stand in the file, and how many there are */
} Cluster;

struct Index {
    PyObject_HEAD
    Array arrays[6]; /* matrix; codes and span of the centres; clusters, span of the codes, file: none when all are compared */
    Matrix matrix;
    const Cluster *clusters;
    Py_ssize_t count, probes, most; /* clusters, those searched, rows of the largest */
};

Matrix index_matrix(const Index *index) { return index->matrix; }

/* What a search finds: the best of those that may be told, and of the excluded ones. */
typedef struct {
    Best free, taken;
    const int64_t *excluded;
    Py_ssize_t exclusions;
} Finds;

static inline void offer(Finds *finds, float score, int32_t row) {
    if (!(score >= finds->free.floor)) return; /* NaN is never found */
    if (finds->exclusions && is_among(finds->excluded, finds->exclusions, row)) best_offer(&finds->taken, score, row);
    else best_offer(&finds->free, score, row);
}

FAST static void compare_all(Matrix matrix, const float *query, Finds *finds) {
    for (Py_ssize_t i = 0; i < matrix.rows; i++)
        offer(finds, product(matrix.data + i * matrix.width, query, matrix.width), (int32_t)i);
}

/* Take the exact products of hits that were found by their codes. */
FAST static void compare_hits(Matrix matrix, const float *query, Hit *hits, Py_ssize_t count) {
    for (Py_ssize_t i = 0; i < count; i++) {
        if (i + AHEAD < count) fetch(matrix.data + hits[i + AHEAD].row * matrix.width, matrix.width);
        float exact = product(matrix.data + hits[i].row * matrix.width, query, matrix.width);
        hits[i].score = exact == exact ? exact : -INFINITY;
    }
}

/* Products of `count` codes of `width` bytes with a query that ends in zeros: codes are read to a multiple of OVER. */
#define DEFINE_CODE_PRODUCTS(NAME, READ)                                                                            \
    FAST static void NAME(const uint8_t *codes, Py_ssize_t count, Py_ssize_t width, const int16_t *query,           \
                          int32_t *out) {                                                                           \
        for (Py_ssize_t i = 0; i < count; i++, codes += width) {                                                    \
            int32_t sum = 0;                                                                                        \
            for (Py_ssize_t k = 0; k < (READ); k++) sum += (int32_t)codes[k] * (int32_t)query[k];                   \
            out[i] = sum;                                                                                           \
        }                                                                                                           \
    }
DEFINE_CODE_PRODUCTS(code_products_32, 32)
DEFINE_CODE_PRODUCTS(code_products_64, 64)
DEFINE_CODE_PRODUCTS(code_products_any, (width + OVER - 1) / OVER * OVER)

static void code_products(const uint8_t *codes, Py_ssize_t count, Py_ssize_t width, const int16_t *query, int32_t *out) {
    if (width <= 32) code_products_32(codes, count, width, query, out);
    else if (width <= 64) code_products_64(codes, count, width, query, out);
    else code_products_any(codes, count, width, query, out);
}

/* A code is one of 256 steps along the span of its column: what differs between vectors, within a query, is the sum of
   codes times query * span / 255, taken in whole numbers of the unit that is given back. */
static float whole_query(const float *query, const float *span, Py_ssize_t width, int16_t *whole) {
    float most = 0;
    for (Py_ssize_t j = 0; j < width; j++) most = fmaxf(most, fabsf(query[j] * (span[j] / 255)));
    float unit = most > 0 ? most / 32767 : 1;
    memset(whole, 0, sizeof(int16_t) * (WIDEST + OVER));
    for (Py_ssize_t j = 0; j < width; j++) whole[j] = (int16_t)rintf(query[j] * (span[j] / 255) / unit);
    return unit;
}

/* Offer all of one cluster, whose centre's product is `base`, their rows being `rows` in the file. A block is passed over
   when even its greatest sum is too little: most are. */
FAST static void offer_sums(const int32_t *sums, Py_ssize_t count, float base, float unit, const uint8_t *rows, Finds *finds) {
    for (Py_ssize_t start = 0; start < count; start += BLOCK) {
        Py_ssize_t stop = start + BLOCK < count ? start + BLOCK : count;
        int32_t most = INT32_MIN;
        for (Py_ssize_t k = start; k < stop; k++) most = sums[k] > most ? sums[k] : most;
        if (base + unit * (float)most < finds->free.floor) continue;
        for (Py_ssize_t k = start; k < stop; k++) {
            int64_t row = k;
            float score = base + unit * (float)sums[k];
            if (score < finds->free.floor) continue;
            if (rows) memcpy(&row, rows + 8 * k, 8);
            offer(finds, score, (int32_t)row);
        }
    }
}

/* The codes of the cluster that comes next: where a page is and what it starts with, the processor cannot foresee. */
static inline void fetch_pages(const uint8_t *file, Cluster next, Py_ssize_t width) {
    for (int64_t byte = 0; byte < next.size * width; byte += 4096) __builtin_prefetch(file + next.codes + byte);
}

/* At the file's end there may be nothing to read over, so `copy` takes the codes. */
static void search_cluster(const Index *index, Cluster cluster, const int16_t *whole, float base, float unit, int32_t *sums,
                           uint8_t *copy, Finds *finds) {
    const uint8_t *file = DATA(index->arrays[5], uint8_t), *codes = file + cluster.codes;
    Py_ssize_t bytes = cluster.size * index->matrix.width;
    if (cluster.codes + bytes + OVER > index->arrays[5].length) codes = memcpy(copy, codes, bytes);
    code_products(codes, cluster.size, index->matrix.width, whole, sums);
    offer_sums(sums, cluster.size, base, unit, file + cluster.rows, finds);
}

/* Search the `probes` clusters whose centres have the greatest products: the best of them first, as more of it is kept. */
static int search_clusters(const Index *index, const float *query, Py_ssize_t probes, Finds *finds) {
    Py_ssize_t width = index->matrix.width, most = index->most > index->count ? index->most : index->count;
    int16_t of_centres[WIDEST + OVER], of_codes[WIDEST + OVER];
    float centre_unit = whole_query(query, DATA(index->arrays[2], float), width, of_centres);
    float unit = whole_query(query, DATA(index->arrays[4], float), width, of_codes);
    int32_t *sums = malloc(sizeof(int32_t) * (most + 1));
    uint8_t *copy = malloc(index->most * width + OVER);
    Finds chosen = {0};
    int good = best_open(&chosen.free, probes < index->count ? probes : index->count) && sums && copy;
    if (good) {
        const Hit *hits = chosen.free.hits;
        code_products(DATA(index->arrays[1], uint8_t), index->count, width, of_centres, sums);
        offer_sums(sums, index->count, 0, centre_unit, NULL, &chosen);
        best_cut(&chosen.free);
        sort_hits(chosen.free.hits, chosen.free.count);
        for (Py_ssize_t i = 0; i < chosen.free.count; i++) {
            if (i + 1 < chosen.free.count) fetch_pages(DATA(index->arrays[5], uint8_t), index->clusters[hits[i + 1].row], width);
            search_cluster(index, index->clusters[hits[i].row], of_codes, hits[i].score, unit, sums, copy, finds);
        }
    }
    free(chosen.free.hits);
    free(sums);
    free(copy);
    return good;
}

/* Clusters that hold too few are joined by further ones. */
static int find(const Index *index, const float *query, Py_ssize_t count, Finds *finds) {
    if (!index->clusters) {
        compare_all(index->matrix, query, finds);
        return 1;
    }
    for (Py_ssize_t probes = index->probes;; probes *= WIDER) {
        finds->free.count = finds->taken.count = 0;
        finds->free.floor = finds->taken.floor = -INFINITY;
        if (!search_clusters(index, query, probes, finds)) return 0;
        if (finds->free.count >= count || probes >= index->count) return 1;
    }
}

Py_ssize_t index_search(const Index *index, const float *query, const int64_t *excluded, Py_ssize_t exclusions,
                        Py_ssize_t count, Hit *found, float *most) {
    Py_ssize_t kept = -1;
    Finds finds = {.excluded = excluded, .exclusions = exclusions};
    *most = NAN;
    int opened = best_open(&finds.free, index->clusters ? REFINED(count) : count) && best_open(&finds.taken, 4);
    if (opened && count == 0) {
        kept = 0;
    } else if (opened && find(index, query, count, &finds)) {
        best_cut(&finds.free);
        best_cut(&finds.taken);
        if (index->clusters) {
            compare_hits(index->matrix, query, finds.free.hits, finds.free.count);
            compare_hits(index->matrix, query, finds.taken.hits, finds.taken.count);
        }
        sort_hits(finds.free.hits, finds.free.count);
        kept = finds.free.count < count ? finds.free.count : count;
        if (kept) *most = finds.free.hits[0].score;
        for (Py_ssize_t i = 0; i < finds.taken.count; i++) *most = fmaxf(*most, finds.taken.hits[i].score);
        memcpy(found, finds.free.hits, sizeof(Hit) * kept);
    }
    free(finds.free.hits);
    free(finds.taken.hits);
    return kept;
}

/* ---- the type ---- */

static PyTypeObject *type; /* the module's, which lives as long as the process */

int is_index(PyObject *object) { return Py_TYPE(object) == type; }

/* Whether the clusters lie within the file, and hold every row once; else ValueError is set. */
static int check_clusters(Index *index) {
    const uint8_t *file = DATA(index->arrays[5], uint8_t);
    int64_t bytes = index->arrays[5].length, width = index->matrix.width, total = 0;
    char *seen = calloc(index->matrix.rows + 1, 1);
    int good = seen != NULL;
    if (!good) PyErr_NoMemory();
    for (Py_ssize_t i = 0; good && i < index->count; i++) {
        Cluster cluster = index->clusters[i];
        good = expect(cluster.size >= 0 && cluster.size <= index->matrix.rows && cluster.codes >= 0 && cluster.rows >= 0 &&
                          cluster.codes <= bytes - cluster.size * width && cluster.rows <= bytes - cluster.size * 8,
                      "clusters within their file");
        for (int64_t k = 0; good && k < cluster.size; k++) {
            int64_t row;
            memcpy(&row, file + cluster.rows + 8 * k, 8);
            good = expect(row >= 0 && row < index->matrix.rows && !seen[row], "every row once, found one twice or beyond");
            if (good) seen[row] = 1;
        }
        total += cluster.size;
        index->most = cluster.size > index->most ? (Py_ssize_t)cluster.size : index->most;
    }
    free(seen);
    return good && expect(total == index->matrix.rows, "every row once, found fewer");
}

static int fill_index(Index *index, PyObject *given) {
    static const Form forms[] = {{"matrix", 'f', 0}, {"centres", 'B', 0}, {"centre_span", 'f', 0},
                                 {"clusters", 'l', 0}, {"span", 'f', 0}, {"file", 'B', 0}};
    PyObject *each[6];
    Py_ssize_t width;
    if (!PyArg_ParseTuple(given, "OnOOOOOn", each, &width, each + 1, each + 2, each + 3, each + 4, each + 5, &index->probes) ||
        !take(each, forms, 6, index->arrays))
        return 0;
    Array *a = index->arrays;
    index->matrix = (Matrix){DATA(a[0], float), width > 0 ? a[0].length / width : 0, width};
    if (!expect(width > 0 && width <= WIDEST && a[0].length % width == 0 && index->matrix.rows <= INT32_MAX / 2,
                "vectors of 1 to 256 columns"))
        return 0;
    if (!a[5].held) return 1;
    index->count = a[3].length / 3;
    index->clusters = DATA(a[3], Cluster);
    return expect(index->probes > 0 && index->count > 0 && a[1].length == index->count * width + OVER && a[2].length == width &&
                      a[4].length == width,
                  "centres and spans as wide as the vectors, and clusters to search") &&
           check_clusters(index);
}

static PyObject *index_new(PyTypeObject *of, PyObject *given, PyObject *named) {
    Index *index = (Index *)((allocfunc)PyType_GetSlot(of, Py_tp_alloc))(of, 0);
    if (index && !fill_index(index, given)) {
        Py_DECREF(index);
        return NULL;
    }
    return (PyObject *)index;
}

static void index_free(PyObject *self) {
    PyTypeObject *of = Py_TYPE(self);
    release(((Index *)self)->arrays, 6);
    ((freefunc)PyType_GetSlot(of, Py_tp_free))(self);
    Py_DECREF(of);
}

static PyObject *nearest(PyObject *self, PyObject *const *given, Py_ssize_t count) {
    static const Form forms[] = {{"query", 'f', 0}, {"out", 'l', 1}, {"products", 'f', 1}};
    const Index *index = (const Index *)self;
    Array a[3];
    if (!arguments(count, 3) || !take(given, forms, 3, a)) return NULL;
    Py_ssize_t found = -1;
    Hit *hits = malloc(sizeof(Hit) * (a[1].length + 1));
    if (expect(a[0].length == index->matrix.width && a[1].length == a[2].length, "a query as wide as the vectors, and a product a row")) {
        float most;
        Py_BEGIN_ALLOW_THREADS
        if (hits) found = index_search(index, DATA(a[0], float), NULL, 0, a[1].length, hits, &most);
        Py_END_ALLOW_THREADS
        for (Py_ssize_t i = 0; i < found; i++) {
            DATA(a[1], int64_t)[i] = hits[i].row;
            DATA(a[2], float)[i] = hits[i].score;
        }
        if (found < 0) PyErr_NoMemory();
    }
    free(hits);
    release(a, 3);
    return found < 0 ? NULL : PyLong_FromSsize_t(found);
}

PyObject *index_type(PyObject *module) {
    static PyMethodDef methods[] = {METHOD("nearest", nearest), {NULL, NULL, 0, NULL}};
    static PyType_Slot slots[] = {
        {Py_tp_new, index_new}, {Py_tp_dealloc, index_free}, {Py_tp_methods, methods}, {0, NULL}};
    static PyType_Spec spec = {"musix_runtime.kernels.Index", sizeof(Index), 0, Py_TPFLAGS_DEFAULT, slots};
    PyObject *made = PyType_FromModuleAndSpec(module, &spec, NULL);
    type = (PyTypeObject *)made;
    return made;
}
