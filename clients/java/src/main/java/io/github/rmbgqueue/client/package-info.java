/**
 * A client of rmbg-queue on the JDK's own {@link java.net.http.HttpClient}, without dependencies.
 *
 * <p>{@link io.github.rmbgqueue.client.RmbgClient} submits pictures and waits for their cutouts, with retries
 * and an idempotency key for every submission. {@link io.github.rmbgqueue.client.WebhookVerifier} checks what
 * the service posts. Everything else is a record or an exception.
 */
package io.github.rmbgqueue.client;
