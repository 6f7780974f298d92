"""The tools that come with Apache Kafka."""


def all_cases(suite):
    return []
