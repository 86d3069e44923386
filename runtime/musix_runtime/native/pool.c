/* Pool: which tracks come into question for a listener, and what speaks for each of them. */

#include "index.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define COMPONENTS 5
#define FAMILY 0.2f /* preference for a track of the family heard most, when nothing else is known of it */

enum { ROWS, PLACES, TASTES, FAMILIES, FRESHNESS, POPULARITY, POPULAR, WEIGHTS, ARRAYS };

typedef struct {
    PyObject ob_base;
    PyObject *collab, *content; /* indexes */
    Array arrays[ARRAYS];
} Pool;

static int within(const Array *rows, Py_ssize_t count) {
    int good = 1;
    for (Py_ssize_t i = 0; i < rows->length; i++) {
        int64_t row = DATA(*rows, int64_t)[i];
        good &= row >= 0 && row < count;
    }
    return expect(good, "rows that there are");
}

static Py_ssize_t taste_width(const Pool *pool) {
    return pool->arrays[ROWS].length ? pool->arrays[TASTES].length / pool->arrays[ROWS].length : 0;
}

/* What is known of who asks; an array that is none is NULL. */
typedef struct {
    const float *factors, *query;
    float average, best;
    const int64_t *taste;
    Py_ssize_t tastes;
} Asker;

/* ---- candidates ---- */

/* Order a few rows, ascending, each once; how many are left. */
static Py_ssize_t distinct_rows(int64_t *rows, Py_ssize_t count) {
    for (Py_ssize_t gap = count / 2; gap > 0; gap = gap == 2 ? 1 : gap * 5 / 11)
        for (Py_ssize_t i = gap; i < count; i++) {
            int64_t moved = rows[i];
            Py_ssize_t j = i;
            for (; j >= gap && rows[j - gap] > moved; j -= gap) rows[j] = rows[j - gap];
            rows[j] = moved;
        }
    Py_ssize_t left = count ? 1 : 0;
    for (Py_ssize_t i = 1; i < count; i++)
        if (rows[i] != rows[left - 1]) rows[left++] = rows[i];
    return left;
}

/* Where catalogue rows, ascending, stand among those with factors; those without are left out. */
static Py_ssize_t known_places(const Pool *pool, const int64_t *rows, Py_ssize_t count, int64_t *places) {
    Py_ssize_t known = 0;
    for (Py_ssize_t i = 0; i < count && rows[i] < pool->arrays[PLACES].length; i++) {
        int32_t place = rows[i] < 0 ? -1 : DATA(pool->arrays[PLACES], int32_t)[rows[i]];
        if (place >= 0) places[known++] = place;
    }
    return known;
}

/* Up to `count` rows that collab proposes and as many of content, or twice as many popular ones when neither is asked;
   ascending, each once. How many; -1 without memory. */
static Py_ssize_t propose(const Pool *pool, const Asker *asker, const int64_t *unwanted, Py_ssize_t exclusions,
                          Py_ssize_t count, int64_t *out, float *best) {
    Hit *hits = malloc(sizeof(Hit) * (count + 1));
    int64_t *excluded = malloc(sizeof(int64_t) * (2 * exclusions + 1)), *places = excluded + exclusions;
    Py_ssize_t total = 0, found = hits && excluded ? 0 : -1;
    if (found >= 0) {
        memcpy(excluded, unwanted, sizeof(int64_t) * exclusions);
        exclusions = distinct_rows(excluded, exclusions);
    }
    if (found >= 0 && asker->factors) {
        Py_ssize_t known = known_places(pool, excluded, exclusions, places);
        found = index_search((Index *)pool->collab, asker->factors, places, known, count, hits, best);
        for (Py_ssize_t i = 0; i < found; i++) out[total++] = DATA(pool->arrays[ROWS], int32_t)[hits[i].row];
    }
    if (found >= 0 && asker->query) {
        float most;
        found = index_search((Index *)pool->content, asker->query, excluded, exclusions, count, hits, &most);
        for (Py_ssize_t i = 0; i < found; i++) out[total++] = hits[i].row;
    }
    if (found >= 0 && !asker->factors && !asker->query)
        for (Py_ssize_t i = 0; i < pool->arrays[POPULAR].length && total < 2 * count; i++) {
            int32_t row = DATA(pool->arrays[POPULAR], int32_t)[i];
            if (!is_among(excluded, exclusions, row)) out[total++] = row;
        }
    free(hits);
    free(excluded);
    return found < 0 ? -1 : distinct_rows(out, total);
}

static PyObject *candidates(PyObject *self, PyObject *const *given, Py_ssize_t count) {
    static const Form forms[] = {{"factors", 'f', 0}, {"query", 'f', 0}, {"excluded", 'l', 0}, {"out", 'l', 1}};
    const Pool *pool = (const Pool *)self;
    Array a[4];
    if (!arguments(count, 4) || !take(given, forms, 4, a)) return NULL;
    Asker asker = {.factors = a[0].held ? DATA(a[0], float) : NULL, .query = a[1].held ? DATA(a[1], float) : NULL};
    Py_ssize_t found = -1;
    float best = NAN;
    if (expect((!a[0].held || a[0].length == index_matrix((Index *)pool->collab).width) &&
                   (!a[1].held || a[1].length == index_matrix((Index *)pool->content).width),
               "factors and a query as wide as the vectors")) {
        Py_BEGIN_ALLOW_THREADS found =
            propose(pool, &asker, DATA(a[2], int64_t), a[2].length, a[3].length / 2, DATA(a[3], int64_t), &best);
        Py_END_ALLOW_THREADS if (found < 0) PyErr_NoMemory();
    }
    release(a, 4);
    return found < 0 ? NULL : Py_BuildValue("nf", found, best);
}

/* ---- features ---- */

static inline float share(float value) { return value < 0 ? 0 : value > 1 ? 1 : value; }

/* Where catalogue rows stand among those with factors, -1 for none: the last place is that of all rows beyond. */
static inline int32_t place_of(const int32_t *places, Py_ssize_t known, int64_t row) {
    return places[row < known ? row : known - 1];
}

static void fetch_rows(const int64_t *rows, Py_ssize_t count, const int32_t *places, Py_ssize_t known,
                       const float *data, Py_ssize_t width) {
    for (Py_ssize_t i = 0; i < count; i++) {
        int32_t place = place_of(places, known, rows[i]);
        if (place >= 0) fetch(data + place * width, width);
    }
}

/* How well tracks match a listener: their products with its factors, from 0 for the average to 1 for the best. */
FAST static void fill_matches(const int64_t *rows, Py_ssize_t count, const int32_t *places, Py_ssize_t known,
                              const float *factors, const float *query, Py_ssize_t width, float average, float best,
                              float *out) {
    float range = fmaxf(best - average, 1e-6f);
    fetch_rows(rows, count, places, known, factors, width);
    for (Py_ssize_t i = 0; i < count; i++) {
        int32_t place = place_of(places, known, rows[i]);
        out[i] = place < 0 ? 0 : share((product(factors + place * width, query, width) - average) / range);
    }
}

/* How much the tracks of a taste speak for others, by who hears them: the product with all of theirs, in 0..1. */
FAST static void fill_alike(const int64_t *rows, Py_ssize_t count, const int32_t *places, Py_ssize_t known,
                            const float *tastes, Py_ssize_t width, const int64_t *taste, Py_ssize_t size, float *sum,
                            float *out) {
    memset(sum, 0, sizeof(float) * width);
    fetch_rows(taste, size, places, known, tastes, width);
    for (Py_ssize_t i = 0; i < size; i++) {
        int32_t place = place_of(places, known, taste[i]);
        for (Py_ssize_t j = 0; place >= 0 && j < width; j++) sum[j] += tastes[place * width + j];
    }
    fetch_rows(rows, count, places, known, tastes, width);
    for (Py_ssize_t i = 0; i < count; i++) {
        int32_t place = place_of(places, known, rows[i]);
        out[i] = place < 0 ? 0 : share(product(tastes + place * width, sum, width));
    }
}

/* How much the taste holds of each family, as a share of the one it holds most of. */
static void family_shares(const uint32_t *families, const int64_t *taste, Py_ssize_t count, float *shares) {
    int32_t counts[32] = {0};
    for (Py_ssize_t i = 0; i < count; i++)
        for (uint32_t left = families[taste[i]], bit = 0; left; left >>= 1, bit++) counts[bit] += left & 1;
    int32_t most = 1;
    for (int bit = 0; bit < 32; bit++) most = counts[bit] > most ? counts[bit] : most;
    for (int bit = 0; bit < 32; bit++) shares[bit] = (float)counts[bit] / (float)most;
}

static float greatest_share(uint32_t families, const float *shares) {
    float most = 0;
    for (int bit = 0; families; families >>= 1, bit++)
        if ((families & 1) && shares[bit] > most) most = shares[bit];
    return most;
}

/* Fill in vectors and components of the rows. */
FAST static void fill_features(const Pool *pool, const Asker *asker, const int64_t *rows, Py_ssize_t count,
                               float *first, float *alike, float *sum, float *vectors, float *components) {
    Matrix content = index_matrix((Index *)pool->content), collab = index_matrix((Index *)pool->collab);
    const int32_t *places = DATA(pool->arrays[PLACES], int32_t);
    const uint32_t *families = DATA(pool->arrays[FAMILIES], uint32_t);
    Py_ssize_t known = pool->arrays[PLACES].length;
    const float *freshness = DATA(pool->arrays[FRESHNESS], float), *popularity = DATA(pool->arrays[POPULARITY], float);
    float shares[32];
    for (Py_ssize_t i = 0; i < count; i++) {
        fetch(content.data + rows[i] * content.width, content.width);
        __builtin_prefetch(places + (rows[i] < known ? rows[i] : known - 1));
        __builtin_prefetch(families + rows[i]);
        __builtin_prefetch(freshness + rows[i]);
    }
    fill_alike(rows, count, places, known, DATA(pool->arrays[TASTES], float), taste_width(pool), asker->taste,
               asker->tastes, sum, alike);
    family_shares(families, asker->taste, asker->tastes, shares);
    if (asker->factors)
        fill_matches(rows, count, places, known, collab.data, asker->factors, collab.width, asker->average, asker->best,
                     first);
    for (Py_ssize_t i = 0; i < count; i++, vectors += content.width, components += COMPONENTS) {
        memcpy(vectors, content.data + rows[i] * content.width, sizeof(float) * content.width);
        components[0] = asker->factors ? first[i] : asker->query ? 0 : popularity[rows[i]];
        components[1] = asker->query ? share(product(vectors, asker->query, content.width)) : 0;
        components[2] = 1 - (1 - alike[i]) * (1 - FAMILY * greatest_share(families[rows[i]], shares));
        components[3] = freshness[rows[i]];
        components[4] = 1;
    }
}

/* Keep, in order, the rows of the best blends: weighted sums of components, to the nearest whole number. */
static void keep_best(const float *weights, int64_t *rows, Py_ssize_t count, Py_ssize_t width, Py_ssize_t kept,
                      Hit *hits, int64_t *places, float *vectors, float *components) {
    for (Py_ssize_t i = 0; i < count; i++) {
        float blend = 0;
        for (int j = 0; j < COMPONENTS; j++) blend += components[i * COMPONENTS + j] * weights[j];
        hits[i] = (Hit){rintf(blend), (int32_t)i};
    }
    select_hits(hits, count, kept);
    for (Py_ssize_t i = 0; i < kept; i++) places[i] = hits[i].row;
    distinct_rows(places, kept);
    for (Py_ssize_t i = 0; i < kept; i++) {
        rows[i] = rows[places[i]];
        memmove(vectors + i * width, vectors + places[i] * width, sizeof(float) * width);
        memmove(components + i * COMPONENTS, components + places[i] * COMPONENTS, sizeof(float) * COMPONENTS);
    }
}

/* Vectors and components of the rows, of which the best are kept. Whether there was memory for it. */
static int tell_features(const Pool *pool, const Asker *asker, int64_t *rows, Py_ssize_t count, Py_ssize_t kept,
                         float *vectors, float *components) {
    Py_ssize_t width = index_matrix((Index *)pool->content).width;
    char *room =
        malloc(count * (2 * sizeof(float) + sizeof(Hit) + sizeof(int64_t)) + sizeof(float) * (taste_width(pool) + 1));
    if (!room) return 0;
    int64_t *places = (int64_t *)room;
    Hit *hits = (Hit *)(places + count);
    float *first = (float *)(hits + count), *alike = first + count;
    fill_features(pool, asker, rows, count, first, alike, alike + count, vectors, components);
    if (kept < count)
        keep_best(DATA(pool->arrays[WEIGHTS], float), rows, count, width, kept, hits, places, vectors, components);
    free(room);
    return 1;
}

static PyObject *features(PyObject *self, PyObject *const *given, Py_ssize_t count) {
    static const Form forms[] = {{"rows", 'l', 1},  {"factors", 'f', 0}, {"query", 'f', 0},
                                 {"taste", 'l', 0}, {"vectors", 'f', 1}, {"components", 'f', 1}};
    const Pool *pool = (const Pool *)self;
    Array a[6];
    if (!arguments(count, 9)) return NULL;
    double average = PyFloat_AsDouble(given[6]), best = PyFloat_AsDouble(given[7]);
    Py_ssize_t size = PyLong_AsSsize_t(given[8]);
    if (PyErr_Occurred() || !take(given, forms, 6, a)) return NULL;
    Asker asker = {a[1].held ? DATA(a[1], float) : NULL,
                   a[2].held ? DATA(a[2], float) : NULL,
                   (float)average,
                   (float)best,
                   DATA(a[3], int64_t),
                   a[3].length};
    Py_ssize_t rows = a[0].length, width = index_matrix((Index *)pool->content).width;
    int good = expect((!a[1].held || a[1].length == index_matrix((Index *)pool->collab).width) &&
                          (!a[2].held || a[2].length == width) && a[4].length == rows * width &&
                          a[5].length == rows * COMPONENTS && size >= 0,
                      "factors and a query as wide as the vectors, and a vector and components a row") &&
               within(&a[0], index_matrix((Index *)pool->content).rows) &&
               within(&a[3], index_matrix((Index *)pool->content).rows);
    if (good && !tell_features(pool, &asker, DATA(a[0], int64_t), rows, size, DATA(a[4], float), DATA(a[5], float))) {
        PyErr_NoMemory();
        good = 0;
    }
    release(a, 6);
    return good ? PyLong_FromSsize_t(size < rows ? size : rows) : NULL;
}

/* ---- both, for several at once ---- */

enum { FACTORS, QUERY, EXCLUDED, TASTE, OUT_ROWS, OUT_VECTORS, OUT_COMPONENTS, PORTS };

typedef struct {
    Array arrays[PORTS];
    Asker asker;
    Py_ssize_t kept, found; /* rows to keep, at most; candidates, -1 without memory */
    double seconds;         /* which these took */
} Question;

static double now(void) {
    struct timespec time;
    timespec_get(&time, TIME_UTC);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static int take_question(const Pool *pool, PyObject *given, Question *question) {
    static const Form forms[PORTS] = {{"factors", 'f', 0},   {"query", 'f', 0}, {"excluded", 'l', 0},
                                      {"taste", 'l', 0},     {"rows", 'l', 1},  {"vectors", 'f', 1},
                                      {"components", 'f', 1}};
    PyObject *each[PORTS];
    Array *a = question->arrays;
    double average;
    if (!PyTuple_Check(given)) {
        PyErr_SetString(PyExc_TypeError, "expected a tuple a question");
        return 0;
    }
    if (!PyArg_ParseTuple(given, "OOOOOOOdn", each, each + 1, each + 2, each + 3, each + 4, each + 5, each + 6,
                          &average, &question->kept) ||
        !take(each, forms, PORTS, a))
        return 0;
    Matrix content = index_matrix((Index *)pool->content);
    question->asker = (Asker){.factors = a[FACTORS].held ? DATA(a[FACTORS], float) : NULL,
                              .query = a[QUERY].held ? DATA(a[QUERY], float) : NULL,
                              .average = (float)average,
                              .taste = DATA(a[TASTE], int64_t),
                              .tastes = a[TASTE].length};
    return expect((!a[FACTORS].held || a[FACTORS].length == index_matrix((Index *)pool->collab).width) &&
                      (!a[QUERY].held || a[QUERY].length == content.width) &&
                      a[OUT_VECTORS].length == a[OUT_ROWS].length * content.width &&
                      a[OUT_COMPONENTS].length == a[OUT_ROWS].length * COMPONENTS && question->kept >= 0,
                  "factors and a query as wide as the vectors, and a vector and components a row") &&
           within(&a[TASTE], content.rows);
}

static void answer(const Pool *pool, Question *question) {
    Array *a = question->arrays;
    int64_t *rows = DATA(a[OUT_ROWS], int64_t);
    float best = NAN;
    double start = now();
    Py_ssize_t found = propose(pool, &question->asker, DATA(a[EXCLUDED], int64_t), a[EXCLUDED].length,
                               a[OUT_ROWS].length / 2, rows, &best);
    question->seconds = now() - start;
    question->asker.best = isnan(best) ? question->asker.average : best;
    question->found = found < 0 || !tell_features(pool, &question->asker, rows, found, question->kept,
                                                  DATA(a[OUT_VECTORS], float), DATA(a[OUT_COMPONENTS], float))
                          ? -1
                          : found;
}

static PyObject *search(PyObject *self, PyObject *const *given, Py_ssize_t count) {
    const Pool *pool = (const Pool *)self;
    Py_ssize_t asked = arguments(count, 1) ? PyList_Size(given[0]) : -1, taken = 0;
    if (asked < 0) return NULL;
    Question *questions = calloc(asked + 1, sizeof(Question));
    PyObject *told = questions ? PyList_New(asked) : PyErr_NoMemory();
    for (; told && taken < asked; taken++)
        if (!take_question(pool, PyList_GetItem(given[0], taken), questions + taken)) Py_CLEAR(told);
    if (told) {
        Py_BEGIN_ALLOW_THREADS for (Py_ssize_t i = 0; i < asked; i++) answer(pool, questions + i);
        Py_END_ALLOW_THREADS
    }
    for (Py_ssize_t i = 0; i < taken; i++) {
        if (told && questions[i].found < 0) {
            PyErr_NoMemory();
            Py_CLEAR(told);
        }
        if (told) PyList_SetItem(told, i, Py_BuildValue("nd", questions[i].found, questions[i].seconds));
        release(questions[i].arrays, PORTS);
    }
    free(questions);
    return told;
}

static PyObject *matches(PyObject *self, PyObject *const *given, Py_ssize_t count) {
    static const Form forms[] = {
        {"rows", 'l', 0}, {"places", 'i', 0}, {"factors", 'f', 0}, {"query", 'f', 0}, {"out", 'f', 1}};
    Array a[5];
    if (!arguments(count, 7)) return NULL;
    double average = PyFloat_AsDouble(given[5]), best = PyFloat_AsDouble(given[6]);
    if (PyErr_Occurred() || !take(given, forms, 5, a)) return NULL;
    int good = expect(a[4].length == a[0].length && a[1].length > 0, "a place for all other rows, and a match a row") &&
               within(&a[0], PY_SSIZE_T_MAX);
    if (good)
        fill_matches(DATA(a[0], int64_t), a[0].length, DATA(a[1], int32_t), a[1].length, DATA(a[2], float),
                     DATA(a[3], float), a[3].length, (float)average, (float)best, DATA(a[4], float));
    release(a, 5);
    return good ? Py_NewRef(Py_None) : NULL;
}

static PyObject *profile(PyObject *self, PyObject *const *given, Py_ssize_t count) {
    static const Form forms[] = {{"matrix", 'f', 0}, {"rows", 'l', 0}, {"out", 'f', 1}};
    Array a[3];
    if (!arguments(count, 3) || !take(given, forms, 3, a)) return NULL;
    const float *matrix = DATA(a[0], float);
    const int64_t *rows = DATA(a[1], int64_t);
    float *sum = DATA(a[2], float), squares = 0;
    Py_ssize_t width = a[2].length;
    if (!within(&a[1], width ? a[0].length / width : 0)) {
        release(a, 3);
        return NULL;
    }
    for (Py_ssize_t i = 0; i < a[1].length; i++) fetch(matrix + rows[i] * width, width);
    memset(sum, 0, sizeof(float) * width);
    for (Py_ssize_t i = 0; i < a[1].length; i++)
        for (Py_ssize_t j = 0; j < width; j++) sum[j] += matrix[rows[i] * width + j];
    for (Py_ssize_t j = 0; j < width; j++) squares += sum[j] * sum[j];
    for (Py_ssize_t j = 0; squares > 0 && j < width; j++) sum[j] /= sqrtf(squares);
    release(a, 3);
    return Py_NewRef(Py_None);
}

/* ---- the type ---- */

static int fill_pool(Pool *pool, PyObject *given) {
    static const Form forms[ARRAYS] = {{"rows", 'i', 0},     {"places", 'i', 0},    {"tastes", 'f', 0},
                                       {"families", 'I', 0}, {"freshness", 'f', 0}, {"popularity", 'f', 0},
                                       {"popular", 'i', 0},  {"weights", 'f', 0}};
    PyObject *each[ARRAYS], *collab, *content;
    if (!PyArg_ParseTuple(given, "OOOOOOOOOO", &collab, &content, each, each + 1, each + 2, each + 3, each + 4,
                          each + 5, each + 6, each + 7) ||
        !take(each, forms, ARRAYS, pool->arrays))
        return 0;
    if (!expect(is_index(collab) && is_index(content), "two indexes")) return 0;
    pool->collab = Py_NewRef(collab);
    pool->content = Py_NewRef(content);
    Py_ssize_t tracks = index_matrix((Index *)content).rows, heard = pool->arrays[ROWS].length;
    return expect(heard == 0 || pool->arrays[TASTES].length % heard == 0, "tastes of one width") &&
           expect(pool->arrays[ROWS].length == index_matrix((Index *)collab).rows && pool->arrays[PLACES].length > 0 &&
                      pool->arrays[FAMILIES].length == tracks && pool->arrays[FRESHNESS].length == tracks &&
                      pool->arrays[POPULARITY].length == tracks && pool->arrays[WEIGHTS].length == COMPONENTS,
                  "an entry a track, and five weights");
}

static PyObject *pool_new(PyTypeObject *type, PyObject *given, PyObject *named) {
    Pool *pool = (Pool *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (pool && !fill_pool(pool, given)) {
        Py_DECREF(pool);
        return NULL;
    }
    return (PyObject *)pool;
}

static void pool_free(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    release(((Pool *)self)->arrays, ARRAYS);
    Py_XDECREF(((Pool *)self)->collab);
    Py_XDECREF(((Pool *)self)->content);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

PyObject *pool_type(PyObject *module) {
    static PyMethodDef methods[] = {METHOD("candidates", candidates),
                                    METHOD("features", features),
                                    METHOD("search", search),
                                    {NULL, NULL, 0, NULL}};
    static PyType_Slot slots[] = {
        {Py_tp_new, pool_new}, {Py_tp_dealloc, pool_free}, {Py_tp_methods, methods}, {0, NULL}};
    static PyType_Spec spec = {"musix_runtime.kernels.Pool", sizeof(Pool), 0, Py_TPFLAGS_DEFAULT, slots};
    return PyType_FromModuleAndSpec(module, &spec, NULL);
}

PyMethodDef pool_functions[] = {FUNCTION(matches), FUNCTION(profile), {NULL, NULL, 0, NULL}};
