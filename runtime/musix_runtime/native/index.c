#include "index.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define WIDEST 256 /* columns of a vector, at most */
#define OVER 32    /* bytes behind codes that may be read, and do not count */
#define BLOCK 8    /* scores that are looked at together */
#define BINS 256   /* in which the tops of blocks are counted */
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

/* The greatest scores of blocks; the scores of a block stand `blocks` apart. */
FAST static void block_tops(const float *scores, Py_ssize_t count, Py_ssize_t blocks, float *tops) {
    for (Py_ssize_t i = 0; i < blocks; i++) tops[i] = -INFINITY;
    for (; count > 0; count -= blocks, scores += blocks)
        for (Py_ssize_t i = 0, width = count < blocks ? count : blocks; i < width; i++)
            tops[i] = scores[i] > tops[i] ? scores[i] : tops[i];
}

/* The least and the greatest of some values; infinite when there are none. */
FAST static void bounds(const float *values, Py_ssize_t count, float *low, float *high) {
    float lows[LANES], highs[LANES];
    for (int k = 0; k < LANES; k++) lows[k] = INFINITY, highs[k] = -INFINITY;
    for (; count > 0; count -= LANES, values += LANES)
        for (int k = 0; k < (count < LANES ? count : LANES); k++) {
            lows[k] = values[k] < lows[k] ? values[k] : lows[k];
            highs[k] = values[k] > highs[k] ? values[k] : highs[k];
        }
    *low = lows[0], *high = highs[0];
    for (int k = 1; k < LANES; k++) *low = fminf(*low, lows[k]), *high = fmaxf(*high, highs[k]);
}

/* A score that at least `kept` of the tops reach, and few more: told by counting them in bins. */
static float floor_under(const float *tops, Py_ssize_t count, Py_ssize_t kept) {
    int32_t bins[BINS] = {0};
    float low, high;
    bounds(tops, count, &low, &high);
    float scale = (BINS - 1) / (high - low);
    if (count < kept || !(scale > 0 && scale < INFINITY)) return -INFINITY;
    for (Py_ssize_t i = 0; i < count; i++) bins[(int)((tops[i] - low) * scale)]++;
    int bin = BINS;
    for (Py_ssize_t reached = 0; reached < kept;) reached += bins[--bin];
    return low + ((float)bin - 0.01f) / scale; /* a hundredth of a bin less, for rounding */
}

/* The `kept` greatest of the scores, their `row` being the place, in no order. How many there are, NaN being none; -1
   without memory. Blocks whose tops are below a floor under all that is looked for are passed over: most are. */
static Py_ssize_t greatest(const float *scores, Py_ssize_t count, Py_ssize_t kept, Hit **found) {
    Py_ssize_t blocks = (count + BLOCK - 1) / BLOCK, held = 0;
    float *tops = malloc(sizeof(float) * (blocks + 1));
    Hit *hits = *found = malloc(sizeof(Hit) * (2 * kept + BLOCK + 1));
    if (!tops || !hits) held = -1;
    if (held == 0 && kept > 0) {
        block_tops(scores, count, blocks, tops);
        float floor = floor_under(tops, blocks, kept);
        for (Py_ssize_t block = 0; block < blocks; block++) {
            if (tops[block] < floor) continue;
            for (Py_ssize_t k = block; k < count; k += blocks) {
                hits[held] = (Hit){scores[k], (int32_t)k};
                held += scores[k] >= floor; /* which cannot be foreseen: no branch */
            }
            if (held > 2 * kept) {
                select_hits(hits, held, kept);
                held = kept;
            }
        }
    }
    free(tops);
    if (held <= kept) return held;
    select_hits(hits, held, kept);
    return kept;
}

typedef struct {
    int64_t codes, rows, size; /* where they stand in the file, and how many there are */
} Cluster;

struct Index {
    PyObject ob_base;
    /* Matrix; codes and span of the centres; clusters, span of the codes, file: none when all are compared. */
    Array arrays[6];
    Matrix matrix;
    const Cluster *clusters;
    Py_ssize_t count, probes; /* clusters, and those searched */
};

Matrix index_matrix(const Index *index) { return index->matrix; }

FAST static void compare_all(Matrix matrix, const float *query, float *scores) {
    for (Py_ssize_t i = 0; i < matrix.rows; i++)
        scores[i] = product(matrix.data + i * matrix.width, query, matrix.width);
}

/* Take the exact products of hits that were found by their codes. */
FAST static void compare_hits(Matrix matrix, const float *query, Hit *hits, Py_ssize_t count) {
    for (Py_ssize_t i = 0; i < count; i++) {
        if (i + AHEAD < count) fetch(matrix.data + hits[i + AHEAD].row * matrix.width, matrix.width);
        hits[i].score = product(matrix.data + hits[i].row * matrix.width, query, matrix.width);
    }
}

/* Products of `count` codes of `width` bytes with a query that ends in zeros, times unit, plus base. Codes are read to
   a multiple of OVER. The sums are whole numbers, the same in whichever way they are taken. */
#define DEFINE_CODE_PRODUCTS(NAME, READ)                                                                               \
    FAST static void NAME(const uint8_t *codes, Py_ssize_t count, Py_ssize_t width, const int8_t *query, float base,   \
                          float unit, float *out) {                                                                    \
        for (Py_ssize_t i = 0; i < count; i++, codes += width) {                                                       \
            int32_t sum = 0;                                                                                           \
            for (Py_ssize_t k = 0; k < (READ); k++) sum += (int32_t)codes[k] * (int32_t)query[k];                      \
            out[i] = base + unit * (float)sum;                                                                         \
        }                                                                                                              \
    }
DEFINE_CODE_PRODUCTS(code_products_32, 32)
DEFINE_CODE_PRODUCTS(code_products_64, 64)
DEFINE_CODE_PRODUCTS(code_products_any, (width + OVER - 1) / OVER * OVER)

#ifdef VNNI
/* Four at a time by the instruction that was made for it. */
#define ADDED(a, b, unpack) _mm512_add_epi32(_mm512_unpacklo_##unpack(a, b), _mm512_unpackhi_##unpack(a, b))

VNNI static inline __m512i code_sums(const uint8_t *codes, __m512i query, int wide) {
    __m512i read =
        wide ? _mm512_loadu_si512(codes) : _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)codes));
    return _mm512_dpbusd_epi32(_mm512_setzero_si512(), read, query);
}

VNNI static void code_products_vnni(const uint8_t *codes, Py_ssize_t count, Py_ssize_t width, const int8_t *query,
                                    float base, float unit, float *out) {
    int wide = width > 32;
    __m512i whole =
        wide ? _mm512_loadu_si512(query) : _mm512_zextsi256_si512(_mm256_loadu_si256((const __m256i *)query));
    for (; count >= 4; count -= 4, codes += 4 * width, out += 4) {
        __m512i a = code_sums(codes, whole, wide), b = code_sums(codes + width, whole, wide);
        __m512i c = code_sums(codes + 2 * width, whole, wide), d = code_sums(codes + 3 * width, whole, wide);
        __m512i lanes = ADDED(ADDED(a, b, epi32), ADDED(c, d, epi32), epi64);
        __m256i halves = _mm256_add_epi32(_mm512_castsi512_si256(lanes), _mm512_extracti64x4_epi64(lanes, 1));
        __m128 sums =
            _mm_cvtepi32_ps(_mm_add_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1)));
        _mm_storeu_ps(out, _mm_add_ps(_mm_set1_ps(base), _mm_mul_ps(_mm_set1_ps(unit), sums)));
    }
    for (; count > 0; count--, codes += width, out++)
        *out = base + unit * (float)_mm512_reduce_add_epi32(code_sums(codes, whole, wide));
}
#endif

static void code_products(const uint8_t *codes, Py_ssize_t count, Py_ssize_t width, const int8_t *query, float base,
                          float unit, float *out) {
#ifdef VNNI
    if (width <= 64 && __builtin_cpu_supports("avx512vnni")) {
        code_products_vnni(codes, count, width, query, base, unit, out);
        return;
    }
#endif
    if (width <= 32) code_products_32(codes, count, width, query, base, unit, out);
    else if (width <= 64) code_products_64(codes, count, width, query, base, unit, out);
    else code_products_any(codes, count, width, query, base, unit, out);
}

/* A code is one of 256 steps along the span of its column: what differs between vectors, within a query, is the sum of
   codes times query * span / 255, taken in whole numbers of the unit that is given back. */
static float whole_query(const float *query, const float *span, Py_ssize_t width, int8_t *whole) {
    float most = 0;
    for (Py_ssize_t j = 0; j < width; j++) most = fmaxf(most, fabsf(query[j] * (span[j] / 255)));
    float unit = most > 0 ? most / 127 : 1;
    memset(whole, 0, WIDEST + OVER);
    for (Py_ssize_t j = 0; j < width; j++) whole[j] = (int8_t)rintf(query[j] * (span[j] / 255) / unit);
    return unit;
}

/* The codes of the cluster that comes next: where a page is and what it starts with, the processor cannot foresee. */
static inline void fetch_pages(const uint8_t *file, Cluster next, Py_ssize_t width) {
    for (int64_t byte = 0; byte < next.size * width; byte += 4096) __builtin_prefetch(file + next.codes + byte);
}

/* At the file's end there may be nothing to read over: then a copy of the codes is read. */
static int score_cluster(const Index *index, Cluster cluster, const int8_t *whole, float base, float unit,
                         float *scores) {
    const uint8_t *codes = DATA(index->arrays[5], uint8_t) + cluster.codes;
    Py_ssize_t width = index->matrix.width, bytes = cluster.size * width;
    if (cluster.codes + bytes + OVER <= index->arrays[5].length) {
        code_products(codes, cluster.size, width, whole, base, unit, scores);
        return 1;
    }
    uint8_t *copy = malloc(bytes + OVER);
    if (copy) code_products(memcpy(copy, codes, bytes), cluster.size, width, whole, base, unit, scores);
    free(copy);
    return copy != NULL;
}

/* What was scored: scores that stand end to end, cluster after cluster; without clusters, those of all rows. */
typedef struct {
    Hit *chosen; /* clusters and the products of their centres */
    Py_ssize_t clusters, count, *starts;
    float *scores;
} Scored;

static void drop(Scored *scored) {
    free(scored->chosen);
    free(scored->starts);
    free(scored->scores);
}

/* Choose the `probes` clusters whose centres have the greatest products. */
static int choose_clusters(const Index *index, const float *query, Py_ssize_t probes, Scored *scored) {
    int8_t whole[WIDEST + OVER];
    float unit = whole_query(query, DATA(index->arrays[2], float), index->matrix.width, whole);
    float *keys = malloc(sizeof(float) * index->count);
    if (!keys) return 0;
    code_products(DATA(index->arrays[1], uint8_t), index->count, index->matrix.width, whole, 0, unit, keys);
    scored->clusters = greatest(keys, index->count, probes < index->count ? probes : index->count, &scored->chosen);
    free(keys);
    return scored->clusters >= 0;
}

static int score_clusters(const Index *index, const float *query, Py_ssize_t probes, Scored *scored) {
    int8_t whole[WIDEST + OVER];
    float unit = whole_query(query, DATA(index->arrays[4], float), index->matrix.width, whole);
    if (!choose_clusters(index, query, probes, scored)) return 0;
    scored->starts = malloc(sizeof(Py_ssize_t) * (scored->clusters + 1));
    for (Py_ssize_t i = 0; scored->starts && i < scored->clusters; i++) {
        scored->starts[i] = scored->count;
        scored->count += index->clusters[scored->chosen[i].row].size;
    }
    scored->scores = malloc(sizeof(float) * (scored->count + 1));
    int good = scored->starts && scored->scores;
    for (Py_ssize_t i = 0; good && i < scored->clusters; i++) {
        Cluster cluster = index->clusters[scored->chosen[i].row];
        if (i + 1 < scored->clusters)
            fetch_pages(DATA(index->arrays[5], uint8_t), index->clusters[scored->chosen[i + 1].row],
                        index->matrix.width);
        good = score_cluster(index, cluster, whole, scored->chosen[i].score, unit, scored->scores + scored->starts[i]);
    }
    return good;
}

/* From places in the scores to rows. */
static void resolve(const Index *index, const Scored *scored, Hit *hits, Py_ssize_t count) {
    for (Py_ssize_t i = 0; i < count; i++) {
        Py_ssize_t low = 0, high = scored->clusters;
        while (high - low > 1) {
            Py_ssize_t middle = (low + high) / 2;
            if (scored->starts[middle] <= hits[i].row) low = middle;
            else high = middle;
        }
        int64_t row, place = hits[i].row - scored->starts[low];
        memcpy(&row, DATA(index->arrays[5], uint8_t) + index->clusters[scored->chosen[low].row].rows + 8 * place, 8);
        hits[i].row = (int32_t)row;
    }
}

static Py_ssize_t find_by_codes(const Index *index, const float *query, Py_ssize_t wanted, Hit **hits) {
    for (Py_ssize_t probes = index->probes;;
         probes *= WIDER) { /* clusters that hold too few are joined by further ones */
        Scored scored = {0};
        Py_ssize_t found = -1;
        *hits = NULL;
        if (score_clusters(index, query, probes, &scored)) found = greatest(scored.scores, scored.count, wanted, hits);
        if (found > 0) resolve(index, &scored, *hits, found);
        drop(&scored);
        if (found < 0 || found >= wanted || probes >= index->count) return found;
        free(*hits);
    }
}

static Py_ssize_t find_by_all(const Index *index, const float *query, Py_ssize_t wanted, Hit **hits) {
    float *scores = malloc(sizeof(float) * (index->matrix.rows + 1));
    if (!scores) return -1;
    compare_all(index->matrix, query, scores);
    Py_ssize_t found = greatest(scores, index->matrix.rows, wanted, hits);
    free(scores);
    return found;
}

Py_ssize_t index_search(const Index *index, const float *query, const int64_t *excluded, Py_ssize_t exclusions,
                        Py_ssize_t count, Hit *found, float *most) {
    Hit *hits = NULL;
    Py_ssize_t kept = 0, wanted = (index->clusters ? REFINED(count) : count) + exclusions;
    Py_ssize_t all =
        index->clusters ? find_by_codes(index, query, wanted, &hits) : find_by_all(index, query, wanted, &hits);
    if (all > 0 && index->clusters) compare_hits(index->matrix, query, hits, all);
    if (all > 0) sort_hits(hits, all);
    *most = all > 0 ? hits[0].score : NAN;
    for (Py_ssize_t i = 0; i < all && kept < count; i++)
        if (!is_among(excluded, exclusions, hits[i].row)) found[kept++] = hits[i];
    free(hits);
    return all < 0 ? -1 : kept;
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
        good =
            expect(cluster.size >= 0 && cluster.size <= index->matrix.rows && cluster.codes >= 0 && cluster.rows >= 0 &&
                       cluster.codes <= bytes - cluster.size * width && cluster.rows <= bytes - cluster.size * 8,
                   "clusters within their file");
        for (int64_t k = 0; good && k < cluster.size; k++) {
            int64_t row;
            memcpy(&row, file + cluster.rows + 8 * k, 8);
            good =
                expect(row >= 0 && row < index->matrix.rows && !seen[row], "every row once, found one twice or beyond");
            if (good) seen[row] = 1;
        }
        total += cluster.size;
    }
    free(seen);
    return good && expect(total == index->matrix.rows, "every row once, found fewer");
}

static int fill_index(Index *index, PyObject *given) {
    static const Form forms[] = {{"matrix", 'f', 0},   {"centres", 'B', 0}, {"centre_span", 'f', 0},
                                 {"clusters", 'l', 0}, {"span", 'f', 0},    {"file", 'B', 0}};
    PyObject *each[6];
    Py_ssize_t width;
    if (!PyArg_ParseTuple(given, "OnOOOOOn", each, &width, each + 1, each + 2, each + 3, each + 4, each + 5,
                          &index->probes) ||
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
    return expect(index->probes > 0 && index->count > 0 && a[1].length == index->count * width + OVER &&
                      a[2].length == width && a[4].length == width,
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
    if (expect(a[0].length == index->matrix.width && a[1].length == a[2].length,
               "a query as wide as the vectors, and a product a row")) {
        float most;
        Py_BEGIN_ALLOW_THREADS if (hits) found =
            index_search(index, DATA(a[0], float), NULL, 0, a[1].length, hits, &most);
        Py_END_ALLOW_THREADS for (Py_ssize_t i = 0; i < found; i++) {
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
