from peftkit.judge import predict

TEXTS = ["a lovely film", "3 it was a dull book by no. 77"]


def test_first(server, adapters):
    print([m.id for m in server.client.models.list()])
    for name in ("mood", "topic"):
        for text in TEXTS:
            given = server.client.chat.completions.create(model=name, messages=[{"role": "user", "content": text}])
            print(given)
            (expected,) = predict(adapters[name], [text])
            assert given.choices[0].message.content.strip() == expected["answer"]
    print(server.log)
