"""Audio features of a request."""

FEATURES = {
    "danceability": 0.5,
    "energy": 0.5,
    "key": 5,
    "loudness": -8.5,
    "mode": 1,
    "speechiness": 0.05,
    "acousticness": 0.1,
    "instrumentalness": 0,
    "liveness": 0.1,
    "valence": 0.5,
    "tempo": 120,
    "time_signature": 4,
}
